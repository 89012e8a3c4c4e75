/* What a host does with a bundle and a folder, under faults.
 *
 *   work BUNDLE BASIS BASE HEADS
 *
 * A call that fails is told as `error: ` and made once more, which has to succeed: the process had one fault. With
 * FAULT_LASTS in the environment it has more. Prints the bits of what it computes. Exits with 1 if a call failed, and
 * with 3 where it failed in a way that it must not.
 */
#if !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 199309L
#endif
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "taskbasis.h"

static int failures = 0;
static tb_error *error = NULL;

static void give_up(const char *why) {
    fprintf(stderr, "%s\n", why);
    exit(3);
}

/* Whether the call has to be made again. */
static int again(const char *call, int attempt, tb_status status) {
    if (status == TB_OK) {
        return error == NULL ? 0 : (give_up("a call that succeeds says an error"), 0);
    }
    const char *message = tb_error_message(error);
    if (error == NULL || tb_error_status(error) != status || message[0] == '\0' || strchr(message, '\n') != NULL) {
        give_up("a call fails without a readable error");
    }
    fprintf(stderr, "error: %s: %s: %s\n", call, tb_status_name(status), message);
    if (status == TB_ERR_INTERNAL) {
        give_up("a defect");
    }
    tb_error_free(error);
    error = NULL;
    failures++;
    if (attempt > 0) {
        exit(getenv("FAULT_LASTS") != NULL ? 1 : 3);
    }
    return 1;
}

#define TRY(call)                                                                                                      \
    for (int attempt = 0; again(#call, attempt, call); attempt++) {                                                    \
    }

static void tell(const char *what, const float *values, size_t count) {
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, values + i, sizeof bits);
        hash = (hash ^ bits) * 1099511628211u;
    }
    printf("%s %016llx\n", what, (unsigned long long)hash);
}

static float *floats(size_t count) {
    float *values = NULL;
    for (int attempt = 0; attempt < 2 && values == NULL; attempt++) {
        values = calloc(count, sizeof *values);
    }
    if (values == NULL) {
        fprintf(stderr, "error: no memory\n");
        exit(1);
    }
    return values;
}

/* Tasks of one basis through one encoder: reconstructed when they are needed, before, and promoted. */
static void work(const char *path, const char *base, const char *heads) {
    tb_basis_options how = {.struct_size = sizeof how, .base = base};
    tb_encoder_options options = {.struct_size = sizeof options, .threads = 2, .promotion = TB_PROMOTION_MANUAL};
    tb_encoder_properties model = {.struct_size = sizeof model};
    tb_basis *basis = NULL;
    tb_encoder *encoder = NULL;
    tb_weights *first = NULL, *second = NULL;
    tb_head *head = NULL;
    TRY(tb_basis_open(path, &how, &basis, &error))
    TRY(tb_basis_verify(basis, &error))
    TRY(tb_encoder_create(basis, &options, &encoder, &error))
    TRY(tb_encoder_info(encoder, &model, &error))
    TRY(tb_head_open(heads, "MNIST", NULL, &head, &error))
    TRY(tb_weights_create(basis, "MNIST", &first, &error))
    TRY(tb_weights_create(basis, "MNIST@0.3 + Rotated@0.3", &second, &error))

    size_t side = model.image_size, pixels = 3 * side * side, e = model.embedding;
    float *image = floats(pixels), *embedding = floats(e), *promoted = floats(e);
    for (size_t i = 0; i < pixels; i++) {
        image[i] = (float)(i % 13) * 0.1f - 0.5f;
    }
    TRY(tb_encoder_encode(encoder, first, image, 1, embedding, e, &error))
    tell("first", embedding, e);
    tb_score best[3];
    TRY(tb_head_classify(head, embedding, 1, e, NULL, 0, best, 3, &error))
    printf("class %zu\n", best[0].class_index);

    TRY(tb_weights_prefetch(second, &error))
    TRY(tb_weights_prepare(second, &error))
    TRY(tb_encoder_encode(encoder, second, image, 1, embedding, e, &error))
    tell("second", embedding, e);

    TRY(tb_encoder_promote(encoder, second, 1, &error))
    TRY(tb_encoder_encode(encoder, second, image, 1, promoted, e, &error))
    for (size_t i = 0; i < e; i++) {
        if (!(fabsf(promoted[i] - embedding[i]) < 1e-4f)) {
            give_up("the promoted session computes something else");
        }
    }

    uint8_t *picture = (uint8_t *)floats(64 * 1024);
    tb_image photo = {.data = picture, .width = 256, .height = 256, .format = TB_PIXELS_GRAY8};
    for (size_t i = 0; i < 256 * 256; i++) {
        picture[i] = (uint8_t)(i * 7 + i / 256);
    }
    TRY(tb_encoder_encode_images(encoder, first, &photo, 1, embedding, e, &error))
    tell("picture", embedding, e);

    free(picture);
    free(image);
    free(embedding);
    free(promoted);
    tb_head_free(head);
    tb_basis_free(basis);
    tb_weights_free(second);
    tb_encoder_free(encoder);
    tb_weights_free(first);
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: %s BUNDLE BASIS BASE HEADS\n", argv[0]);
        return 2;
    }
    work(argv[1], NULL, argv[1]);
    work(argv[2], argv[3], argv[4]);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "error: standard output\n");
        return 1;
    }
    return failures != 0;
}
