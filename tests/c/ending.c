/* How a process ends that has an encoder and does not free it.
 *
 *     ending BASIS BASE promoting MICROSECONDS   leaves main while a session is being built
 *     ending BASIS BASE encoding MICROSECONDS    leaves main while threads encode, and make encoders
 *     ending BASIS BASE within RUNS              one of them calls exit, after so many of its own
 *     ending BASIS BASE callback MICROSECONDS    exit is called by what ONNX Runtime calls
 *     ending BASIS BASE forked                   waits for a child that only exits
 */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <taskbasis.h>

enum { THREADS = 4, LONG = 60000000 };

static tb_basis *basis;
static tb_encoder *encoder;
static tb_weights *weights;
static tb_encoder_properties model = {.struct_size = sizeof model};
static uint32_t log_level;
static unsigned last_run = UINT32_MAX;
static pthread_mutex_t ends = PTHREAD_MUTEX_INITIALIZER;

static void check(tb_status status, tb_error *error) {
    if (status != TB_OK) {
        fprintf(stderr, "%s\n", tb_error_message(error));
        _exit(2);
    }
}

/* For a call that the end of the process may refuse. */
static void check_or_refused(tb_status status, tb_error *error) {
    check(status == TB_ERR_CANCELLED ? TB_OK : status, error);
    tb_error_free(error);
}

static void pass_time(long microseconds) {
    struct timespec some = {.tv_sec = microseconds / 1000000, .tv_nsec = microseconds % 1000000 * 1000};
    nanosleep(&some, NULL);
}

/* Of several threads, one: two calls of exit are undefined. */
static void end_once(void) {
    if (pthread_mutex_trylock(&ends) == 0) {
        exit(0);
    }
}

static void end_in_callback(uint32_t level, const char *message, void *user_data) {
    (void)level;
    (void)message;
    (void)user_data;
    end_once();
}

/* Encodes for as long as there is a process, tasks in turn; the first thread also makes encoders of its own. */
static void *encode(void *number) {
    static const char *tasks[] = {"MNIST", "Parity", "merged@0.4"};
    float *pixels = calloc(3 * model.image_size * model.image_size, sizeof *pixels);
    float *embeds = calloc(model.embedding, sizeof *embeds);
    tb_error *error = NULL;
    tb_weights *own[3];
    for (int i = 0; i < 3; i++) {
        check(tb_weights_create(basis, tasks[i], &own[i], &error), error);
    }
    for (unsigned i = 0;; i++) {
        error = NULL;
        tb_status status = tb_encoder_encode(encoder, own[i % 3], pixels, 1, embeds, model.embedding, &error);
        check_or_refused(status, error);
        if (*(const unsigned *)number == 0) {
            tb_encoder_options options = {.struct_size = sizeof options, .log_level = log_level};
            tb_encoder *other = NULL;
            error = NULL;
            check_or_refused(tb_encoder_create(basis, &options, &other, &error), error);
            tb_encoder_free(other);
        }
        if (i == last_run) {
            end_once();
        }
    }
    return NULL;
}

static int encode_and_end(const char *how, long number) {
    static unsigned numbers[THREADS];
    int is_callback = strcmp(how, "callback") == 0, is_within = strcmp(how, "within") == 0;
    log_level = is_callback ? TB_LOG_TRACE : 0;
    last_run = is_within ? (unsigned)number : UINT32_MAX;
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_t thread;
        numbers[i] = i;
        if (pthread_create(&thread, NULL, encode, &numbers[i]) != 0) {
            return 2;
        }
    }
    pass_time(is_within ? LONG : number);
    if (is_callback) {
        tb_log_set_callback(end_in_callback, NULL, TB_LOG_TRACE);
        pass_time(LONG);
    }
    return is_within || is_callback ? 2 : 0;
}

static int fork_and_end(void) {
    pid_t child = fork();
    if (child == 0) {
        exit(7);
    }
    int status = 0;
    for (int i = 0; i < 2000 && waitpid(child, &status, WNOHANG) == 0; i++) {
        pass_time(10000);
    }
    kill(child, SIGKILL); /* It would hold our output open. */
    return WIFEXITED(status) && WEXITSTATUS(status) == 7 ? 0 : 1;
}

static int promote_and_end(long delay) {
    float *pixels = calloc(3 * model.image_size * model.image_size, sizeof *pixels);
    float *embeds = calloc(model.embedding, sizeof *embeds);
    for (int i = 0; i < 32; i++) { /* As often as it takes to be promoted. */
        tb_error *error = NULL;
        check(tb_encoder_encode(encoder, weights, pixels, 1, embeds, model.embedding, &error), error);
    }
    free(pixels);
    free(embeds);
    pass_time(delay);
    return 0;
}

int main(int argc, char **argv) {
    tb_error *error = NULL;
    if (argc < 4) {
        return 2;
    }
    tb_basis_options options = {.struct_size = sizeof options, .base = argv[2]};
    check(tb_basis_open(argv[1], &options, &basis, &error), error);
    check(tb_encoder_create(basis, NULL, &encoder, &error), error);
    check(tb_weights_create(basis, "MNIST", &weights, &error), error);
    check(tb_encoder_info(encoder, &model, &error), error);
    long number = argc > 4 ? atol(argv[4]) : 0;
    if (strcmp(argv[3], "forked") == 0) {
        return fork_and_end();
    }
    return strcmp(argv[3], "promoting") == 0 ? promote_and_end(number) : encode_and_end(argv[3], number);
}
