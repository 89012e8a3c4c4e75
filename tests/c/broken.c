/* What a sanitizer must catch: a check that passes this program is not looking.
 *
 *   broken leak       memory that is lost
 *   broken overflow   the library writes past the caller's buffer, because the caller lied about its size
 *   broken race       two threads have the library write to one buffer
 */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "taskbasis.h"

enum { SIDE = 8, VALUES = 3 * SIDE * SIDE };

static uint8_t gray[4] = {0, 85, 170, 255};

static void *preprocess(void *out) {
    tb_image image = {.data = gray, .width = 2, .height = 2, .format = TB_PIXELS_GRAY8};
    for (int i = 0; i < 50; i++) {
        tb_preprocess(&image, SIDE, out, VALUES, NULL, NULL);
    }
    return NULL;
}

int main(int argc, char **argv) {
    const char *how = argc == 2 ? argv[1] : "";
    if (strcmp(how, "leak") == 0) {
        tb_error *error = NULL;
        tb_preprocess(NULL, SIDE, NULL, 0, NULL, &error);
        error = NULL; /* and with it the message, which the library allocated */
        return error != NULL;
    }
    float *out = calloc(strcmp(how, "overflow") == 0 ? VALUES / 2 : VALUES, sizeof *out);
    pthread_t other;
    int racing = strcmp(how, "race") == 0 && pthread_create(&other, NULL, preprocess, out) == 0;
    preprocess(out);
    if (racing) {
        pthread_join(other, NULL);
    }
    free(out);
    return 0;
}
