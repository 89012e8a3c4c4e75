/* How a process ends that has an encoder and does not free it.
 *
 *     ending BASIS BASE promoting MICROSECONDS   leaves main while a session is being built
 *     ending BASIS BASE forked                   waits for a child that only exits
 */
#define _POSIX_C_SOURCE 200809L
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <taskbasis.h>

static tb_error *error;

static void check(tb_status status) {
    if (status != TB_OK) {
        fprintf(stderr, "%s\n", tb_error_message(error));
        _exit(2);
    }
}

int main(int argc, char **argv) {
    tb_basis *basis;
    tb_encoder *encoder;
    tb_weights *weights;
    if (argc < 4) {
        return 2;
    }
    tb_basis_options options = {.struct_size = sizeof options, .base = argv[2]};
    check(tb_basis_open(argv[1], &options, &basis, &error));
    check(tb_encoder_create(basis, NULL, &encoder, &error));
    check(tb_weights_create(basis, "MNIST", &weights, &error));
    if (strcmp(argv[3], "forked") == 0) {
        pid_t child = fork();
        if (child == 0) {
            exit(7);
        }
        int status = 0;
        struct timespec tick = {.tv_nsec = 10000000};
        for (int i = 0; i < 2000 && waitpid(child, &status, WNOHANG) == 0; i++) {
            nanosleep(&tick, NULL);
        }
        kill(child, SIGKILL); /* It would hold our output open. */
        return WIFEXITED(status) && WEXITSTATUS(status) == 7 ? 0 : 1;
    }
    tb_encoder_properties model = {.struct_size = sizeof model};
    check(tb_encoder_info(encoder, &model, &error));
    float *pixels = calloc(3 * model.image_size * model.image_size, sizeof *pixels);
    float *embeds = calloc(model.embedding, sizeof *embeds);
    for (int i = 0; i < 32; i++) { /* As often as it takes to be promoted. */
        check(tb_encoder_encode(encoder, weights, pixels, 1, embeds, model.embedding, &error));
    }
    free(pixels);
    free(embeds);
    struct timespec some = {.tv_nsec = 1000 * (argc > 4 ? atol(argv[4]) : 0)};
    nanosleep(&some, NULL);
    return 0;
}
