/* Changes the task at every image, and prints what that costs.
 *
 *   switch_tasks BASIS BASE [ROUNDS]
 *
 * Every task of the basis gets its turn. In the first round every task is new: its weights are reconstructed. Later
 * rounds find them in the cache.
 */
#if !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 199309L
#endif
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "taskbasis.h"

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int fail(tb_error *error) {
    fprintf(stderr, "%s: %s\n", tb_status_name(tb_error_status(error)), tb_error_message(error));
    tb_error_free(error);
    return 1;
}

/* One round over all tasks: task, latency of the call. */
static int run_round(const tb_basis *basis, const tb_encoder *encoder, size_t tasks, int round, const float *image,
                     float *embedding, size_t capacity) {
    for (size_t t = 0; t < tasks; t++) {
        tb_error *error = NULL;
        const char *name = NULL;
        tb_weights *weights = NULL;
        tb_task task = {.name = NULL, .lambda = 1.0};
        if (tb_basis_task_name(basis, t, &name, &error) != TB_OK) {
            return fail(error);
        }
        task.name = name;
        double began = now_ms();
        if (tb_weights_create_from_tasks(basis, &task, 1, &weights, &error) != TB_OK ||
            tb_encoder_encode(encoder, weights, image, 1, embedding, capacity, &error) != TB_OK) {
            tb_weights_free(weights);
            return fail(error);
        }
        printf("round %d  %-12s %8.3f ms  first value %+.6f\n", round, name, now_ms() - began, (double)embedding[0]);
        tb_weights_free(weights);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 3 && argc != 4) {
        fprintf(stderr, "usage: %s BASIS BASE [ROUNDS]\n", argv[0]);
        return 2;
    }
    int rounds = argc == 4 ? atoi(argv[3]) : 3;
    tb_error *error = NULL;
    tb_basis *basis = NULL;
    tb_encoder *encoder = NULL;
    tb_basis_options options = {.struct_size = sizeof options, .base = argv[2]};
    tb_basis_properties about = {.struct_size = sizeof about};
    tb_encoder_properties model = {.struct_size = sizeof model};
    tb_cache_statistics cache = {.struct_size = sizeof cache};

    if (tb_basis_open(argv[1], &options, &basis, &error) != TB_OK ||
        tb_basis_info(basis, &about, &error) != TB_OK ||
        tb_encoder_create(basis, NULL, &encoder, &error) != TB_OK ||
        tb_encoder_info(encoder, &model, &error) != TB_OK) {
        tb_basis_free(basis);
        tb_encoder_free(encoder);
        return fail(error);
    }

    size_t values = 3 * model.image_size * model.image_size;
    float *image = calloc(values, sizeof *image);
    float *embedding = calloc(model.embedding, sizeof *embedding);
    int failed = image == NULL || embedding == NULL;
    if (failed) {
        perror("images");
    }
    for (size_t i = 0; !failed && i < values; i++) {
        image[i] = (float)(i % 7) * 0.1f;
    }
    for (int round = 1; !failed && round <= rounds; round++) {
        failed = run_round(basis, encoder, about.tasks, round, image, embedding, model.embedding);
    }
    if (!failed && tb_cache_stats(basis, &cache, &error) != TB_OK) {
        failed = fail(error);
    }
    if (!failed) {
        printf("cache: %llu hits, %llu misses, %llu bytes of %llu; %.3f ms a reconstruction\n",
               (unsigned long long)cache.hits, (unsigned long long)cache.misses, (unsigned long long)cache.bytes,
               (unsigned long long)cache.budget,
               cache.misses ? (double)cache.reconstruct_ns * 1e-6 / (double)cache.misses : 0.0);
    }
    free(image);
    free(embedding);
    tb_basis_free(basis); /* before its child: any order is fine */
    tb_encoder_free(encoder);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        perror("stdout");
        failed = 1;
    }
    return failed;
}
