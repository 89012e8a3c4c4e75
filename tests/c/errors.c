/* What goes wrong, reported and freed: the error paths of the C ABI, for runs under valgrind and the sanitizers.
 *
 *   errors BASIS BASE HEADS CLASSES
 *
 * Exits with 1, naming the line, where a call does not give the status that it should.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "taskbasis.h"

static int failures = 0;
static tb_error *error = NULL;

/* A failure comes with an error object that agrees with it and says something; success comes with none. */
static void expect(int line, tb_status wanted, tb_status got) {
    int sound = got == TB_OK ? error == NULL
                             : error != NULL && tb_error_status(error) == got && tb_error_message(error)[0] != '\0';
    if (got != wanted || !sound) {
        fprintf(stderr, "line %d: %s, not %s: %s\n", line, tb_status_name(got), tb_status_name(wanted),
                tb_error_message(error));
        failures++;
    }
    tb_error_free(error);
    error = NULL;
}

static void expect_true(int line, int truth) {
    if (!truth) {
        fprintf(stderr, "line %d: does not hold\n", line);
        failures++;
    }
}

#define EXPECT(status, call) expect(__LINE__, (status), (call))
#define HOLDS(truth) expect_true(__LINE__, (truth))
/* A handle that is no NULL before the call, so that it shows that a failure sets it to NULL. */
#define UNSET(type) ((type *)(uintptr_t)16)

static const char *not_utf8 = "\xff\xfe";

static void nothing_given(void) {
    HOLDS(tb_error_status(NULL) == TB_OK && tb_error_message(NULL)[0] == '\0');
    HOLDS(strcmp(tb_status_name(TB_ERR_NOT_FOUND), "not_found") == 0);
    HOLDS(strcmp(tb_status_name(12345), "unknown") == 0);
    HOLDS(tb_weights_expression(NULL) == NULL);
    tb_error_free(NULL);
    tb_weights_free(NULL);
    tb_encoder_free(NULL);
    tb_head_free(NULL);
    tb_basis_free(NULL);
    tb_log_set_callback(NULL, NULL, TB_LOG_WARN);

    tb_library_properties library = {.struct_size = sizeof library};
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_library_info(NULL, NULL, &error));
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_library_info(not_utf8, &library, &error));
    EXPECT(TB_OK, tb_library_info("/nonexistent/libonnxruntime.so", &library, &error));
    HOLDS(library.onnxruntime_path == NULL && strstr(library.onnxruntime_error, "/nonexistent/") != NULL);
    library.struct_size = 0;
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_library_info(NULL, &library, &error));
}

static void opening(const char *folder, const char *base) {
    tb_basis_options options = {.struct_size = sizeof options, .base = base};
    tb_basis *basis = UNSET(tb_basis);
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_basis_open(folder, NULL, &basis, &error));
    HOLDS(basis == NULL);
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_basis_open(folder, &options, NULL, &error));
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_basis_open(not_utf8, &options, &basis, &error));
    EXPECT(TB_ERR_IO, tb_basis_open("/nonexistent", &options, &basis, &error));
    basis = UNSET(tb_basis);
    options.base = "/nonexistent.pt";
    EXPECT(TB_ERR_IO, tb_basis_open(folder, &options, &basis, &error));
    HOLDS(basis == NULL);
    options.base = folder; /* a folder is no checkpoint */
    HOLDS(tb_basis_open(folder, &options, &basis, NULL) != TB_OK);
    options.struct_size = 3;
    options.base = base;
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_basis_open(folder, &options, &basis, &error));

    /* A program of the future: a larger struct is fine as long as what is unknown is zero. */
    struct {
        tb_basis_options known;
        uint64_t unknown;
    } newer = {.known = {.struct_size = sizeof newer, .base = base}};
    EXPECT(TB_OK, tb_basis_open(NULL, &newer.known, &basis, &error));
    HOLDS(tb_basis_verify(basis, NULL) == TB_OK);
    tb_basis_free(basis);
    newer.unknown = 1;
    EXPECT(TB_ERR_UNSUPPORTED, tb_basis_open(NULL, &newer.known, &basis, &error));
}

static void about(const tb_basis *basis) {
    tb_basis_properties info = {.struct_size = sizeof info}, none = {.struct_size = sizeof none, .tasks = 7};
    EXPECT(TB_OK, tb_basis_info(basis, &info, &error));
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_basis_info(NULL, &none, &error));
    HOLDS(none.tasks == 0);
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_basis_info(basis, NULL, &error));

    const char *name = "";
    size_t index = 0, needed = 0;
    EXPECT(TB_ERR_NOT_FOUND, tb_basis_task_name(basis, info.tasks, &name, &error));
    HOLDS(name == NULL);
    EXPECT(TB_ERR_NOT_FOUND, tb_basis_task_index(basis, "MNISTT", &index, &error));
    HOLDS(index == SIZE_MAX);
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_basis_task_index(basis, NULL, &index, &error));
    EXPECT(TB_ERR_BUFFER_TOO_SMALL, tb_basis_coefficients(basis, NULL, 0, &needed, &error));
    HOLDS(needed == info.tasks * info.vectors);
    double *table = malloc(needed * sizeof *table);
    EXPECT(TB_OK, tb_basis_coefficients(basis, table, needed, NULL, &error));
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_basis_coefficients(basis, NULL, needed, NULL, &error));
    free(table);
    EXPECT(TB_OK, tb_basis_verify(basis, &error));
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_cache_set_budget(NULL, 0, &error));
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_cache_trim(NULL, 0, &error));
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_cache_stats(basis, NULL, &error));
}

static void weights(const tb_basis *basis) {
    tb_weights *weights = UNSET(tb_weights);
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_weights_create(basis, "MNIST@", &weights, &error));
    HOLDS(weights == NULL);
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_weights_create(basis, NULL, &weights, &error));
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_weights_create(basis, not_utf8, &weights, &error));
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_weights_create(NULL, "base", &weights, &error));
    EXPECT(TB_ERR_NOT_FOUND, tb_weights_create(basis, "MNIST + Nowhere", &weights, &error));
    tb_task bad = {.name = "MNIST", .lambda = NAN};
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_weights_create_from_tasks(basis, &bad, 1, &weights, &error));
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_weights_create_from_tasks(basis, NULL, 1, &weights, &error));
    bad = (tb_task){.name = NULL, .lambda = 1.0};
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_weights_create_from_tasks(basis, &bad, 1, &weights, &error));
    double coefficients[2] = {1.0, 2.0};
    HOLDS(tb_weights_create_from_coefficients(basis, coefficients, 2, 0.0, &weights, NULL) != TB_OK);
    HOLDS(weights == NULL);

    EXPECT(TB_OK, tb_weights_create(basis, "MNIST@0.3 - Loops@0.2", &weights, &error));
    tb_tensor tensor = {.struct_size = sizeof tensor};
    float few[3];
    size_t needed = 0, count = 0;
    EXPECT(TB_OK, tb_weights_tensor_count(weights, &count, &error));
    EXPECT(TB_ERR_NOT_FOUND, tb_weights_tensor_at(weights, count, &tensor, &error));
    EXPECT(TB_ERR_NOT_FOUND, tb_weights_tensor(weights, "visual.prj", &tensor, &error));
    HOLDS(tensor.data == NULL);
    EXPECT(TB_ERR_BUFFER_TOO_SMALL, tb_weights_copy_tensor(weights, "visual.proj", few, 3, &needed, &error));
    EXPECT(TB_OK, tb_weights_tensor(weights, "visual.proj", &tensor, &error));
    HOLDS(needed == tensor.count && tensor.rank == 2 && tensor.shape[0] * tensor.shape[1] == tensor.count);
    /* A view outlives the cache's interest in its weights. */
    EXPECT(TB_OK, tb_cache_trim(basis, 0, &error));
    float sum = 0;
    for (size_t i = 0; i < tensor.count; i++) {
        sum += tensor.data[i];
    }
    HOLDS(isfinite(sum));
    /* Not waited for: the handle may go while its weights are being reconstructed. */
    EXPECT(TB_OK, tb_cache_trim(basis, 0, &error));
    tb_weights *soon = NULL;
    EXPECT(TB_OK, tb_weights_create(basis, "all@0.1", &soon, &error));
    EXPECT(TB_OK, tb_weights_prefetch(soon, &error));
    tb_weights_free(soon);
    tb_weights_free(weights);
}

static void encoding(const char *folder, const char *base) {
    tb_basis_options options = {.struct_size = sizeof options, .base = base};
    tb_basis *basis = NULL;
    tb_encoder *encoder = UNSET(tb_encoder);
    tb_weights *weights = NULL;
    EXPECT(TB_OK, tb_basis_open(folder, &options, &basis, &error));
    EXPECT(TB_OK, tb_weights_create(basis, "MNIST", &weights, &error));

    tb_encoder_options how = {.struct_size = sizeof how, .provider = "abacus"};
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_encoder_create(basis, &how, &encoder, &error));
    HOLDS(encoder == NULL);
    how = (tb_encoder_options){.struct_size = sizeof how, .onnxruntime = "/nonexistent/libonnxruntime.so"};
    EXPECT(TB_ERR_RUNTIME_MISSING, tb_encoder_create(basis, &how, &encoder, &error));
    how = (tb_encoder_options){.struct_size = sizeof how, .activation = 99};
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_encoder_create(basis, &how, &encoder, &error));
    how = (tb_encoder_options){.struct_size = sizeof how, .weights_on = TB_WEIGHTS_ON_DEVICE};
    EXPECT(TB_ERR_UNSUPPORTED, tb_encoder_create(basis, &how, &encoder, &error));
    how = (tb_encoder_options){.struct_size = sizeof how, .image_size = 33};
    EXPECT(TB_ERR_UNSUPPORTED, tb_encoder_create(basis, &how, &encoder, &error));
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_encoder_create(NULL, NULL, &encoder, &error));
    how = (tb_encoder_options){.struct_size = sizeof how, .threads = 1};
    EXPECT(TB_OK, tb_encoder_create(basis, &how, &encoder, &error));

    tb_encoder_properties model = {.struct_size = sizeof model};
    EXPECT(TB_OK, tb_encoder_info(encoder, &model, &error));
    size_t values = 3 * model.image_size * model.image_size;
    float *image = calloc(values, sizeof *image), *out = calloc(model.embedding, sizeof *out);
    size_t e = model.embedding;
    EXPECT(TB_ERR_BUFFER_TOO_SMALL, tb_encoder_encode(encoder, weights, image, 1, out, e - 1, &error));
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_encoder_encode(encoder, weights, NULL, 1, out, e, &error));
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_encoder_encode(encoder, NULL, image, 1, out, e, &error));
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_encoder_encode(encoder, weights, image, SIZE_MAX / 2, out, e, &error));
    EXPECT(TB_OK, tb_encoder_encode(encoder, weights, image, 1, out, e, &error));

    int32_t is_prepared = -1;
    HOLDS(model.weights_on == TB_WEIGHTS_ON_HOST && model.weights_fallback == NULL);
    EXPECT(TB_OK, tb_encoder_prepare(encoder, weights, &error));
    EXPECT(TB_OK, tb_encoder_is_prepared(encoder, weights, &is_prepared, &error));
    HOLDS(is_prepared == 1);
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_encoder_prepare(encoder, NULL, &error));

    tb_encoder *streamed = UNSET(tb_encoder);
    how = (tb_encoder_options){.struct_size = sizeof how, .streamed = 1, .cuda_graphs = 1};
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_encoder_create(basis, &how, &streamed, &error));
    HOLDS(streamed == NULL);
    how.cuda_graphs = 0;
    EXPECT(TB_OK, tb_encoder_create(basis, &how, &streamed, &error));
    EXPECT(TB_OK, tb_encoder_encode(streamed, weights, image, 1, out, e, &error));
    EXPECT(TB_ERR_UNSUPPORTED, tb_encoder_prepare(streamed, weights, &error));
    tb_encoder_free(streamed);

    uint8_t gray[4] = {0, 85, 170, 255};
    tb_image picture = {.data = gray, .width = 2, .height = 2, .format = TB_PIXELS_GRAY8};
    EXPECT(TB_OK, tb_encoder_encode_images(encoder, weights, &picture, 1, out, e, &error));
    size_t needed = 0;
    EXPECT(TB_ERR_BUFFER_TOO_SMALL, tb_preprocess(&picture, model.image_size, image, 1, &needed, &error));
    HOLDS(needed == values);
    picture.format = 99;
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_preprocess(&picture, model.image_size, image, values, NULL, &error));
    picture = (tb_image){.data = gray, .width = 0, .height = 2, .format = TB_PIXELS_GRAY8};
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_encoder_encode_images(encoder, weights, &picture, 1, out, e, &error));
    picture = (tb_image){.data = gray, .width = 2, .height = SIZE_MAX, .format = TB_PIXELS_RGB8};
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_preprocess(&picture, model.image_size, image, values, NULL, &error));
    tb_basis_free(basis); /* what was made from it stays */
    EXPECT(TB_OK, tb_encoder_encode(encoder, weights, image, 1, out, e, &error));
    free(image);
    free(out);
    tb_encoder_free(encoder);
    tb_weights_free(weights);
}

static void heads(const char *path, const char *classes) {
    tb_head *head = UNSET(tb_head);
    EXPECT(TB_ERR_IO, tb_head_open("/nonexistent", "MNIST", NULL, &head, &error));
    HOLDS(head == NULL);
    EXPECT(TB_ERR_NOT_FOUND, tb_head_open(path, "Nowhere", NULL, &head, &error));
    HOLDS(tb_head_open(path, "MNIST", path, &head, NULL) != TB_OK); /* not JSON */
    EXPECT(TB_OK, tb_head_open(path, "MNIST", classes, &head, &error));

    size_t count = 0;
    const char *name = "";
    EXPECT(TB_OK, tb_head_classes(head, &count, &error));
    EXPECT(TB_ERR_NOT_FOUND, tb_head_class_name(head, count, &name, &error));
    float embedding[64] = {1.0f}, logits[2];
    tb_score best[2];
    EXPECT(TB_ERR_MISMATCH, tb_head_classify(head, embedding, 1, 63, NULL, 0, best, 2, &error));
    EXPECT(TB_ERR_BUFFER_TOO_SMALL, tb_head_classify(head, embedding, 1, 64, logits, 2, best, 2, &error));
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_head_classify(head, embedding, 1, 64, NULL, 0, best, count + 1, &error));
    EXPECT(TB_OK, tb_head_classify(head, embedding, 1, 64, NULL, 0, best, 2, &error));
    HOLDS(best[0].probability >= best[1].probability);

    tb_head *parity = NULL;
    EXPECT(TB_OK, tb_head_open(path, "Parity", NULL, &parity, &error));
    const tb_head *both[2] = {head, parity}, *missing[2] = {head, NULL};
    float logits_of_both[64];
    tb_score three[6];
    uint32_t function = 0;
    EXPECT(TB_OK, tb_head_function(parity, &function, &error));
    HOLDS(function == TB_FUNCTION_SOFTMAX);
    EXPECT(TB_ERR_INVALID_ARGUMENT, tb_head_classify_many(missing, 2, embedding, 1, 64, NULL, 0, NULL, 0, &error));
    EXPECT(TB_ERR_MISMATCH, tb_head_classify_many(both, 2, embedding, 1, 63, NULL, 0, NULL, 0, &error));
    EXPECT(TB_ERR_BUFFER_TOO_SMALL,
           tb_head_classify_many(both, 2, embedding, 1, 64, logits_of_both, count + 1, three, 3, &error));
    EXPECT(TB_OK, tb_head_classify_many(both, 2, embedding, 1, 64, logits_of_both, count + 2, three, 3, &error));
    HOLDS(three[0].class_index == best[0].class_index && three[0].probability == best[0].probability);
    HOLDS(three[3].logit == logits_of_both[count + three[3].class_index] && three[4].class_index < 2);
    HOLDS(three[5].class_index == SIZE_MAX && three[5].logit == 0.0f && three[5].probability == 0.0f);
    EXPECT(TB_OK, tb_head_classify_many(NULL, 0, embedding, 1, 64, NULL, 0, NULL, 3, &error));
    tb_head_free(parity);
    tb_head_free(head);
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: %s BASIS BASE HEADS CLASSES\n", argv[0]);
        return 2;
    }
    nothing_given();
    opening(argv[1], argv[2]);
    tb_basis_options options = {.struct_size = sizeof options, .base = argv[2]};
    tb_basis *basis = NULL;
    EXPECT(TB_OK, tb_basis_open(argv[1], &options, &basis, &error));
    if (basis == NULL) {
        return 1;
    }
    about(basis);
    weights(basis);
    tb_basis_free(basis);
    encoding(argv[1], argv[2]);
    heads(argv[3], argv[4]);
    return failures != 0;
}
