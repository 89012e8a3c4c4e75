/* Embeds images with the weights of any task expression.
 *
 *   quickstart BASIS BASE EXPRESSION PIXELS.f32 EMBEDS.f32
 *
 * PIXELS.f32 holds preprocessed images, raw little-endian floats [n,3,S,S]; EMBEDS.f32 is written likewise, [n,e].
 */
#include <stdio.h>
#include <stdlib.h>

#include "taskbasis.h"

static float *read_floats(const char *path, size_t *count);
static int write_floats(const char *path, const float *values, size_t count);

/* [quickstart] README shows what stands between these marks. */
static int embed(const char *folder, const char *base, const char *expression, const float *pixels, size_t n, float *out,
                 size_t capacity) {
    tb_basis *basis = NULL;
    tb_encoder *encoder = NULL;
    tb_weights *weights = NULL;
    tb_error *error = NULL;

    tb_basis_options options = {.struct_size = sizeof options, .base = base};
    if (tb_basis_open(folder, &options, &basis, &error) == TB_OK &&
        tb_encoder_create(basis, NULL, &encoder, &error) == TB_OK &&
        tb_weights_create(basis, expression, &weights, &error) == TB_OK &&
        tb_encoder_encode(encoder, weights, pixels, n, out, capacity, &error) == TB_OK) {
        printf("%s: embedded %zu images\n", tb_weights_expression(weights), n);
    } else {
        fprintf(stderr, "%s: %s\n", tb_status_name(tb_error_status(error)), tb_error_message(error));
    }
    int failed = error != NULL;

    tb_error_free(error); /* every free takes NULL, and any order is fine */
    tb_weights_free(weights);
    tb_encoder_free(encoder);
    tb_basis_free(basis);
    return failed;
}
/* [/quickstart] */

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "usage: %s BASIS BASE EXPRESSION PIXELS.f32 EMBEDS.f32\n", argv[0]);
        return 2;
    }
    size_t count = 0;
    float *pixels = read_floats(argv[4], &count);
    if (pixels == NULL) {
        return 1;
    }

    /* How large images and embeddings are: the encoder knows. */
    tb_error *error = NULL;
    tb_basis *basis = NULL;
    tb_encoder *encoder = NULL;
    tb_basis_options options = {.struct_size = sizeof options, .base = argv[2]};
    tb_encoder_properties model = {.struct_size = sizeof model};
    if (tb_basis_open(argv[1], &options, &basis, &error) != TB_OK ||
        tb_encoder_create(basis, NULL, &encoder, &error) != TB_OK ||
        tb_encoder_info(encoder, &model, &error) != TB_OK) {
        fprintf(stderr, "%s\n", tb_error_message(error));
        tb_error_free(error);
        tb_encoder_free(encoder);
        tb_basis_free(basis);
        free(pixels);
        return 1;
    }
    tb_encoder_free(encoder);
    tb_basis_free(basis);

    size_t n = count / (3 * model.image_size * model.image_size);
    size_t capacity = n * model.embedding;
    float *embeds = calloc(capacity ? capacity : 1, sizeof *embeds);
    int failed = embeds == NULL || embed(argv[1], argv[2], argv[3], pixels, n, embeds, capacity) ||
                 write_floats(argv[5], embeds, capacity);
    free(embeds);
    free(pixels);
    return failed;
}

static float *read_floats(const char *path, size_t *count) {
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) {
        perror(path);
        if (file != NULL) {
            fclose(file);
        }
        return NULL;
    }
    long bytes = ftell(file);
    rewind(file);
    *count = bytes > 0 ? (size_t)bytes / sizeof(float) : 0;
    float *values = malloc(*count ? *count * sizeof(float) : sizeof(float));
    if (values == NULL || fread(values, sizeof(float), *count, file) != *count) {
        perror(path);
        free(values);
        values = NULL;
    }
    fclose(file);
    return values;
}

static int write_floats(const char *path, const float *values, size_t count) {
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(values, sizeof(float), count, file) != count) {
        perror(path);
        if (file != NULL) {
            fclose(file);
        }
        return 1;
    }
    return fclose(file) != 0;
}
