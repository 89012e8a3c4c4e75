/* Embeds images with the weights of any task expression.
 *
 *   quickstart BASIS BASE EXPRESSION < pixels > embeddings
 *
 * Both are raw floats of this machine: preprocessed images [n,3,S,S] come in, embeddings [n,e] go out.
 */
#include <stdio.h>
#include <stdlib.h>

#include "taskbasis.h"

static float *read_images(FILE *in, size_t values, size_t *n);
static void check(tb_status status);

static tb_error *error;

/* [quickstart] README shows what stands between these marks. */
static void embed(const char *folder, const char *base, const char *expression, FILE *in, FILE *out) {
    tb_basis *basis;
    tb_encoder *encoder;
    tb_weights *weights;
    tb_basis_options options = {.struct_size = sizeof options, .base = base};
    tb_encoder_properties model = {.struct_size = sizeof model};

    check(tb_basis_open(folder, &options, &basis, &error)); /* check() prints tb_error_message(error) and exits */
    check(tb_encoder_create(basis, NULL, &encoder, &error));
    check(tb_encoder_info(encoder, &model, &error));
    check(tb_weights_create(basis, expression, &weights, &error)); /* "MNIST@0.3 + SVHN@0.3 - Cars@0.2" */

    size_t n, values = 3 * model.image_size * model.image_size;
    float *pixels = read_images(in, values, &n);
    float *embeds = calloc(n, model.embedding * sizeof *embeds);
    check(tb_encoder_encode(encoder, weights, pixels, n, embeds, n * model.embedding, &error));
    fwrite(embeds, model.embedding * sizeof *embeds, n, out);

    free(embeds);
    free(pixels);
    tb_basis_free(basis); /* any order is fine */
    tb_weights_free(weights);
    tb_encoder_free(encoder);
}
/* [/quickstart] */

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: %s BASIS BASE EXPRESSION < pixels > embeddings\n", argv[0]);
        return 2;
    }
    embed(argv[1], argv[2], argv[3], stdin, stdout);
    if (fflush(stdout) != 0 || ferror(stdout)) { /* what fwrite could not write, too */
        perror("stdout");
        return 1;
    }
    return 0;
}

static void check(tb_status status) {
    if (status != TB_OK) {
        fprintf(stderr, "%s: %s\n", tb_status_name(status), tb_error_message(error));
        tb_error_free(error);
        exit(1);
    }
}

/* All images of `values` floats each that `in` holds, and their number. A read that fails is not the end of the file,
 * and an image that is cut off is no image. */
static float *read_images(FILE *in, size_t values, size_t *n) {
    float *images = NULL;
    for (*n = 0;; ++*n) {
        float *more = realloc(images, (*n + 1) * values * sizeof *images);
        if (more == NULL) {
            perror("images");
            exit(1);
        }
        images = more;
        size_t got = fread(images + *n * values, sizeof *images, values, in);
        if (got == values) {
            continue;
        }
        if (ferror(in)) {
            perror("images");
            exit(1);
        }
        if (got != 0 || !feof(in)) {
            fprintf(stderr, "images: image %zu ends after %zu of %zu values\n", *n, got, values);
            exit(1);
        }
        return images;
    }
}
