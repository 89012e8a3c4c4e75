/* One encoder, many threads, a task each: every thread gets its own task's bits.
 *
 *   threads BASIS BASE [SECONDS]
 *
 * First each task's embedding is computed alone. Then 8 threads encode with random tasks at the same time, and every
 * result is compared, bit for bit. Exits with 1 if one differs.
 */
#if !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200112L
#endif
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "taskbasis.h"

enum { THREADS = 8, MAX_TASKS = 64 };

typedef struct shared {
    const tb_encoder *encoder;
    tb_weights *weights[MAX_TASKS];
    float *expected[MAX_TASKS];
    size_t tasks;
    const float *image;
    size_t embedding;
    time_t until;
} shared;

typedef struct worker {
    const shared *common;
    unsigned seed;
    unsigned long runs;
    unsigned long wrong;
} worker;

static unsigned next_random(unsigned *seed) {
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

static void *work(void *argument) {
    worker *self = argument;
    const shared *common = self->common;
    float *out = calloc(common->embedding, sizeof *out);
    if (out == NULL) {
        perror("embedding");
        self->wrong = 1;
        return NULL;
    }
    do {
        size_t t = next_random(&self->seed) % common->tasks;
        tb_error *error = NULL;
        if (tb_encoder_encode(common->encoder, common->weights[t], common->image, 1, out, common->embedding, &error) !=
            TB_OK) {
            fprintf(stderr, "%s\n", tb_error_message(error));
            tb_error_free(error);
            self->wrong++;
        } else if (memcmp(out, common->expected[t], common->embedding * sizeof *out) != 0) {
            self->wrong++;
        }
        self->runs++;
    } while (time(NULL) < common->until);
    free(out);
    return NULL;
}

/* The weights of every task, and each task's embedding computed alone. */
static int prepare(const tb_basis *basis, shared *common, tb_error **error) {
    for (size_t t = 0; t < common->tasks; t++) {
        tb_task task = {.name = NULL, .lambda = 1.0};
        common->expected[t] = calloc(common->embedding, sizeof(float));
        if (common->expected[t] == NULL || tb_basis_task_name(basis, t, &task.name, error) != TB_OK ||
            tb_weights_create_from_tasks(basis, &task, 1, &common->weights[t], error) != TB_OK ||
            tb_encoder_encode(common->encoder, common->weights[t], common->image, 1, common->expected[t],
                              common->embedding, error) != TB_OK) {
            return 1;
        }
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 3 && argc != 4) {
        fprintf(stderr, "usage: %s BASIS BASE [SECONDS]\n", argv[0]);
        return 2;
    }
    tb_error *error = NULL;
    tb_basis *basis = NULL;
    tb_encoder *encoder = NULL;
    shared common = {.encoder = NULL};
    tb_basis_options options = {.struct_size = sizeof options, .base = argv[2]};
    /* Promoted tasks run faster and give other last bits: here every bit is compared. */
    tb_encoder_options many = {.struct_size = sizeof many, .concurrency = 4, .promotion = TB_PROMOTION_OFF};
    tb_basis_properties about = {.struct_size = sizeof about};
    tb_encoder_properties model = {.struct_size = sizeof model};
    float *image = NULL;

    int failed = tb_basis_open(argv[1], &options, &basis, &error) != TB_OK ||
                 tb_basis_info(basis, &about, &error) != TB_OK ||
                 tb_encoder_create(basis, &many, &encoder, &error) != TB_OK ||
                 tb_encoder_info(encoder, &model, &error) != TB_OK;
    if (!failed) {
        size_t values = 3 * model.image_size * model.image_size;
        image = calloc(values, sizeof *image);
        failed = image == NULL;
        for (size_t i = 0; !failed && i < values; i++) {
            image[i] = (float)(i % 11) * 0.07f - 0.3f;
        }
        common.encoder = encoder;
        common.image = image;
        common.embedding = model.embedding;
        common.tasks = about.tasks < MAX_TASKS ? about.tasks : MAX_TASKS;
        failed = failed || prepare(basis, &common, &error);
    }
    if (!failed) {
        /* A budget of three tasks: weights come and go while they are in use. */
        failed = tb_cache_set_budget(basis, 3 * about.image_tower_parameters * sizeof(float), &error) != TB_OK;
    }

    pthread_t threads[THREADS];
    worker workers[THREADS];
    int started = 0;
    common.until = time(NULL) + (argc == 4 ? atoi(argv[3]) : 2);
    for (; !failed && started < THREADS; started++) {
        workers[started] = (worker){.common = &common, .seed = (unsigned)started + 1};
        if (pthread_create(&threads[started], NULL, work, &workers[started]) != 0) {
            failed = 1;
            break;
        }
    }
    unsigned long runs = 0, wrong = 0;
    for (int i = 0; i < started; i++) {
        pthread_join(threads[i], NULL);
        runs += workers[i].runs;
        wrong += workers[i].wrong;
    }

    if (error != NULL) {
        fprintf(stderr, "%s: %s\n", tb_status_name(tb_error_status(error)), tb_error_message(error));
        tb_error_free(error);
    } else if (failed) {
        fprintf(stderr, "no memory, or no thread\n");
    } else {
        printf("%d threads, %zu tasks, %lu runs, %lu wrong\n", started, common.tasks, runs, wrong);
    }
    for (size_t t = 0; t < common.tasks; t++) {
        tb_weights_free(common.weights[t]);
        free(common.expected[t]);
    }
    free(image);
    tb_encoder_free(encoder);
    tb_basis_free(basis);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        perror("stdout");
        failed = 1;
    }
    return failed || wrong != 0 || runs == 0;
}
