/* taskbasis: many fine-tuned CLIP tasks from one compressed basis, switched in milliseconds.
 *
 * This file is the manual of the C ABI. It is generated from src/capi; do not edit it. To write it anew:
 *
 *     TASKBASIS_BLESS=1 cargo test --test capi header
 *
 * A basis is M vectors from which the weights of T > M fine-tuned models ("tasks") can be rebuilt, given the zero-shot
 * model that all of them began as ("base"). Open basis and base, make one encoder, name the weights of each task that
 * is wanted, and say at every call with which weights to encode. Nothing is computed before it is needed; there is no
 * "current task".
 *
 *     #include <stdio.h>
 *     #include <taskbasis.h>
 *
 *     int embed(const float *pixels, size_t n, float *out, size_t capacity) {
 *         tb_error *error = NULL;
 *         tb_basis *basis = NULL;
 *         tb_encoder *encoder = NULL;
 *         tb_weights *weights = NULL;
 *         tb_basis_options options = {.struct_size = sizeof options, .base = "zeroshot.pt"};
 *
 *         if (tb_basis_open("ViT-B-32_AE_M4_8task", &options, &basis, &error) != TB_OK ||
 *             tb_encoder_create(basis, NULL, &encoder, &error) != TB_OK ||
 *             tb_weights_create(basis, "MNIST@0.3 + SVHN@0.3", &weights, &error) != TB_OK ||
 *             tb_encoder_encode(encoder, weights, pixels, n, out, capacity, &error) != TB_OK)
 *             fprintf(stderr, "%s\n", tb_error_message(error));
 *         int failed = error != NULL;
 *
 *         tb_error_free(error);
 *         tb_weights_free(weights);
 *         tb_encoder_free(encoder);
 *         tb_basis_free(basis);
 *         return failed;
 *     }
 *
 * What holds for every function, unless it says otherwise:
 *
 * Failure. What can fail returns a tb_status and takes a last argument `tb_error **err`. Pass NULL, or the address of a
 * tb_error pointer: it is set to NULL on success and to a new error on failure, which the caller frees with
 * tb_error_free(). (It is set without a look at what was there: free an error before using its place again.) There is
 * no error state anywhere else. A defect of the library becomes TB_ERR_INTERNAL (and may leave a line on stderr);
 * nothing is thrown. Only a small allocation that the system refuses ends the process; large ones are errors. Besides
 * the statuses that a function lists, any may return TB_ERR_INVALID_ARGUMENT (NULL where that is not allowed, text that
 * is not UTF-8, a struct_size that is not set, a number out of range), TB_ERR_OUT_OF_MEMORY and TB_ERR_INTERNAL.
 *
 * Outputs. An output that is one value (a handle, a number, an info struct) is first set to NULL, to 0, or to what the
 * function says, and gets its value only on success; a handle is NULL after a failure. An array is written only on
 * success, and never beyond what was announced as its capacity, which counts elements, not bytes. Where an array is too
 * small, the call fails with TB_ERR_BUFFER_TOO_SMALL, and the size that is needed is in the message and, where there is
 * such an argument, in `*needed`, so that a first call with capacity 0 asks for the size. An array of no elements may
 * be NULL. Arrays that a function reads and arrays that it writes must not overlap.
 *
 * Handles. tb_basis, tb_weights, tb_encoder and tb_head are made by ..._open and ..._create, and belong to the caller,
 * who frees each once with its ..._free. Any order is fine: what a handle needs of another stays alive with it, so
 * weights still work when their basis has been freed. Freeing NULL does nothing. Pointers that a function hands out
 * "belong to" a handle: they are valid until it is freed, and are not to be freed or written to.
 *
 * Threads. Every function may be called from any thread, and several threads may use one handle at the same time;
 * each call gets the result that it would get alone: to the bit, except that a task that is promoted on the way may
 * give other last bits from then on (tb_encoder_options.promotion). Only the end needs care: when a handle is freed,
 * no other call may be using it. After fork() the child must not use handles made before.
 *
 * Structs whose first member is `struct_size` may grow at their end in later versions. Set it to sizeof the struct and
 * all that you do not use to zero, which means default:
 *
 *     tb_encoder_options options = {.struct_size = sizeof options, .threads = 2};
 *
 * A library that is newer than the program keeps to the struct that the program knows. An older one accepts the longer
 * struct as long as the part that it does not know is zero, and else says TB_ERR_UNSUPPORTED; in an info struct it sets
 * that part to zero. The other structs never change.
 *
 * Text is UTF-8 and ends in a NUL; so are paths. Tensors are f32, contiguous and row-major; [n,3,S,S] says the extents,
 * the slowest first.
 *
 * Files are mapped and stay open (a descriptor each) as long as a handle needs them. They may be replaced by
 * renaming, but must not be shortened or rewritten in place, and their disk must be able to read them: at a page that
 * it cannot get the process ends with SIGBUS. Where that cannot be promised, tb_basis_options.read makes a copy in
 * memory.
 *
 * The library prints nothing of its own, and installs no handlers; see tb_log_set_callback(). It stays in the process
 * after dlclose(). It starts threads to reconstruct, to prefetch, and through ONNX Runtime to encode. ONNX Runtime is
 * loaded when the first encoder is made and stays until the process ends; one process can have only one. The
 * environment tells it to send no telemetry (ORT_DISABLE_TELEMETRY=1, unless that is set): set it yourself where other
 * threads may call getenv() while the first encoder is made. exit() waits for runs that are in progress and
 * sessions that are being made, on whatever thread; what is asked for after that is TB_ERR_CANCELLED.
 *
 * Versions below 1.0 may change the ABI when the minor number changes, later ones when the major number does; soname
 * and TB_VERSION_... say which it is. One header serves every build: what a build cannot do is TB_ERR_UNSUPPORTED.
 */

#ifndef TASKBASIS_H
#define TASKBASIS_H

#include <stddef.h>
#include <stdint.h>

/* The version of this header. tb_version_number() is that of the library, which may be another one. */
#define TB_VERSION_MAJOR 0
#define TB_VERSION_MINOR 1
#define TB_VERSION_PATCH 0
#define TB_VERSION_STRING "0.1.0"
/* major * 1000000 + minor * 1000 + patch */
#define TB_VERSION_NUMBER 1000

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Statuses and errors ----------------------------------------------------------------------------------------- */

/**
 * The outcome of a call. The numbers are stable and never reused; a newer library may return ones that are not
 * listed here.
 */
typedef enum tb_status {
    /** Done. */
    TB_OK = 0,
    /** An argument is NULL, out of its range, or contradicts another. */
    TB_ERR_INVALID_ARGUMENT = 1,
    /** A file could not be found, opened, read or written. */
    TB_ERR_IO = 2,
    /** A file is not in the format it should be in: truncated, corrupt, or of an unsupported version. */
    TB_ERR_FORMAT = 3,
    /** A name is not known: a task, a tensor, a class. */
    TB_ERR_NOT_FOUND = 4,
    /** Two valid things do not belong together: a basis and the base of another model, an encoder and other weights. */
    TB_ERR_MISMATCH = 5,
    /** Valid, but not something that this build or this method can do. */
    TB_ERR_UNSUPPORTED = 6,
    /** A task's vector cannot be recovered from this basis. */
    TB_ERR_NOT_RECOVERABLE = 7,
    /** ONNX Runtime, or the driver that a GPU needs, is missing, unusable or too old. */
    TB_ERR_RUNTIME_MISSING = 8,
    /** ONNX Runtime or a GPU's driver reported a failure. */
    TB_ERR_RUNTIME = 9,
    /** An allocation that the work needs was refused. */
    TB_ERR_OUT_OF_MEMORY = 10,
    /** A buffer is too small; the size that is needed has been reported. */
    TB_ERR_BUFFER_TOO_SMALL = 11,
    /** The work was called off before it was done. No function returns it yet. */
    TB_ERR_CANCELLED = 12,
    /** A defect in taskbasis itself; please report it. */
    TB_ERR_INTERNAL = 99,
} tb_status;

/** The full story of a failure. Belongs to the caller, who frees it with tb_error_free(). */
typedef struct tb_error tb_error;

/** The status that the failing call returned. TB_OK for NULL. */
tb_status tb_error_status(const tb_error *error);

/**
 * One readable paragraph, UTF-8: which file, which tensor, what was expected, what was there, what to do. It belongs
 * to the error and lives as long. The empty string for NULL.
 */
const char *tb_error_message(const tb_error *error);

/** Frees an error. NULL is fine. */
void tb_error_free(tb_error *error);

/**
 * The stable name of a status: `ok`, `invalid_argument`, ...; `unknown` for a number that this version does not know.
 * Takes an int so that any number may be asked for.
 */
const char *tb_status_name(int32_t status);

/* ---- The library: version, and what it computes with ------------------------------------------------------------- */

/** Properties of the library, from tb_library_info(). All texts stay valid as long as the process lives. */
typedef struct tb_library_properties {
    /** sizeof(tb_library_properties), set by the caller. */
    size_t struct_size;
    /** The kernel that reconstructs: `scalar`, `avx2`, `avx512`, `neon`. */
    const char *kernel;
    /** Processors that this process may use: what 0 threads means. */
    size_t threads;
    /** The file of the ONNX Runtime that is loaded or would be; NULL where none is found. */
    const char *onnxruntime_path;
    /** The version of ONNX Runtime; NULL where none is found. */
    const char *onnxruntime_version;
    /** The reason why none is found, with every place that was searched; NULL where one is. */
    const char *onnxruntime_error;
    /**
     * The execution providers that this ONNX Runtime was built with, comma-separated: `cpu`, or
     * `cpu,cuda,tensorrt`. Whether the machine has what they need is found out by tb_encoder_create(). NULL where
     * no ONNX Runtime is found.
     */
    const char *providers;
} tb_library_properties;

/**
 * The library's version as a number: major*1,000,000 + minor*1,000 + patch. Compare it with TB_VERSION_NUMBER, that of
 * the header: the library's must have the same major (below 1.0: and minor), and be no smaller.
 */
uint32_t tb_version_number(void);

/** The library's version as a text: `0.1.0`. */
const char *tb_version_string(void);

/**
 * Tells what the library would compute with. Looks for ONNX Runtime as tb_encoder_create() does, without starting it;
 * its absence is no failure of this call.
 *
 * @param onnxruntime  the file of ONNX Runtime's library, UTF-8; NULL to search for it
 * @param info         `struct_size` set by the caller; the rest is zero on failure
 * @return TB_OK; TB_ERR_UNSUPPORTED or TB_ERR_INVALID_ARGUMENT where the environment variable TASKBASIS_KERNEL names a
 *         kernel that this machine or this version does not have
 */
tb_status tb_library_info(const char *onnxruntime, tb_library_properties *info, tb_error **err);

/* ---- Log messages ------------------------------------------------------------------------------------------------ */

/** Failures. */
#define TB_LOG_ERROR 1

/** Warnings: something is not as it should be. */
#define TB_LOG_WARN 2

/** Choices that were made: a library, a kernel. */
#define TB_LOG_INFO 3

/** Messages for the search of a fault. */
#define TB_LOG_DEBUG 4

/** All messages. */
#define TB_LOG_TRACE 5

/**
 * Receives a message: its level (a TB_LOG_ constant), a text in UTF-8 that is gone when the function returns, and the
 * caller's pointer. May be called from any thread, also from several at once. It must not call taskbasis, and not
 * throw.
 */
typedef void (*tb_log_callback)(uint32_t level, const char *message, void *user_data);

/**
 * Sets who receives the library's messages and those of ONNX Runtime, for the whole process.
 *
 * When this returns, the function that was set before is no longer running and will not be called again, so its
 * `user_data` can be freed. In a Rust program that has a `tracing` subscriber of its own, the messages go there
 * instead.
 *
 * @param callback   NULL: none, which is how it begins
 * @param user_data  handed to every call; may be NULL
 * @param level      the most that is handed over: TB_LOG_WARN means errors and warnings
 */
void tb_log_set_callback(tb_log_callback callback, void *user_data, uint32_t level);

/* ---- A basis: the vectors, their tasks, and the base ------------------------------------------------------------- */

/** An open basis, its base, and the weights that were reconstructed last. Shareable between threads. */
typedef struct tb_basis tb_basis;

/**
 * Options of tb_basis_open(). Zero means default everywhere; begin with
 * `tb_basis_options options = { .struct_size = sizeof options, ... };`.
 */
typedef struct tb_basis_options {
    /** sizeof(tb_basis_options), as the program was compiled. */
    size_t struct_size;
    /**
     * The base checkpoint (the zero-shot weights): PyTorch or safetensors, a file, the index of several or a folder
     * with one; UTF-8. NULL for a bundle that holds its base. One given with a bundle must be the base that it was
     * packed over.
     */
    const char *base;
    /**
     * Not zero: read the files into memory instead of mapping them: those of basis and base, and of the graph that an
     * encoder over this basis is given. Mapped files must not be shortened while they are open, and their disk must be
     * able to read them, or the process ends with SIGBUS. Files that are read are this basis's own: other bases of the
     * same files share no weights with it.
     */
    uint32_t read;
    /** Threads that reconstruct: at most one per processor, or 64; 0: one per processor. */
    uint32_t threads;
    /**
     * Bytes of reconstructed weights and promoted sessions that are kept for the next time; 0: room for the weights of
     * three tasks, and 1 GiB at least. tb_cache_set_budget() changes it, also to none.
     */
    uint64_t cache_bytes;
    /**
     * A basis whose cache this one is to use, with its budget, instead of one of its own: several bases within one
     * budget. NULL: its own. Only one of the two fields may be set. It may be freed first. Bases of the same mapped
     * files have the same weights in it as long as one of them is open; after that the files, which may be others by
     * then, are reconstructed anew.
     */
    const tb_basis *share_cache;
    /**
     * The image tower of several in the base's file: the one whose names, or whose model's, begin so (`teacher`,
     * `ema.visual`); UTF-8. NULL: the file has one.
     */
    const char *base_prefix;
    /**
     * The side of the images, in pixels, where it is not the one that the base has positions for: its table of
     * positions, and those of all vectors, are resized as the base's library does it. 0: as the base has it, or, for a
     * DINOv2, as the configuration beside it says. A bundle has its own, and no other.
     */
    size_t image_size;
} tb_basis_options;

/** Properties of a basis, from tb_basis_info(). */
typedef struct tb_basis_properties {
    /** sizeof(tb_basis_properties), set by the caller. */
    size_t struct_size;
    /** `Autoencoder`, `PCA`, `Random`, `RandomSample`, or `none` for a base alone. Belongs to the basis. */
    const char *method;
    /** T, the number of tasks. */
    size_t tasks;
    /** M, the number of basis vectors. */
    size_t vectors;
    /** 1 where there is a mean vector beside the M (PCA), else 0. */
    uint32_t has_mean;
    /** Parameters (single numbers) of the whole model. */
    uint64_t parameters;
    /** Parameters of the image tower, which is what gets reconstructed; of a base that holds none, all of them. */
    uint64_t image_tower_parameters;
    /** Bytes of the basis files (without the base's), or of the bundle (with all that is in it). */
    uint64_t file_bytes;
} tb_basis_properties;

/**
 * Opens a basis and its base. A folder as published: `method_info.json`, `basis_vectors.pt` and the method's own
 * file; or a bundle, the single file that `taskbasis pack` makes, which holds the base too unless it was left out. The
 * vectors are mapped; nothing of them is read before weights are reconstructed.
 *
 * `path` may be NULL: then there is only the base, and `base` is the only task expression.
 *
 * Here and wherever else this library is given a file or folder to read, `hf://owner/repo[@revision]/path` is one on
 * the Hugging Face Hub: the copy that the Hub's cache (HF_HOME) has, else one that is downloaded before the function
 * returns, under the environment variables of all clients of the Hub (HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE). A
 * library built without the feature `hub` answers TB_ERR_UNSUPPORTED.
 *
 * @param path     the basis folder or the bundle, UTF-8, or NULL
 * @param options  NULL for all defaults; but `base` is needed unless a bundle holds it
 * @param out      set to the new handle, which the caller frees with tb_basis_free(); NULL on failure
 * @param err      NULL, or set to an error that the caller frees with tb_error_free(); NULL on success
 * @return TB_OK; TB_ERR_IO, TB_ERR_FORMAT for files that cannot be read or are not what they should be;
 *         TB_ERR_NOT_FOUND for a `base_prefix` under which there is no image tower;
 *         TB_ERR_UNSUPPORTED for an unknown method or version; TB_ERR_MISMATCH for a base that is not the bundle's;
 *         TB_ERR_INVALID_ARGUMENT
 */
tb_status tb_basis_open(const char *path, const tb_basis_options *options, tb_basis **out, tb_error **err);

/**
 * Tells what the basis is. Reads nothing from the files.
 *
 * @param info  `struct_size` set by the caller; the rest is zero on failure
 */
tb_status tb_basis_info(const tb_basis *basis, tb_basis_properties *info, tb_error **err);

/**
 * Sets `*out` to the name of task `index`, UTF-8, which belongs to the basis.
 *
 * @param index  0 <= index < T, in the order of the recovery table's columns
 * @return TB_OK; TB_ERR_NOT_FOUND
 */
tb_status tb_basis_task_name(const tb_basis *basis, size_t index, const char **out, tb_error **err);

/**
 * Sets `*out` to the index of the task called `name`, or to SIZE_MAX where the call fails.
 *
 * @return TB_OK; TB_ERR_NOT_FOUND, with the nearest name and the known ones; TB_ERR_INVALID_ARGUMENT where only a base
 *         is open
 */
tb_status tb_basis_task_index(const tb_basis *basis, const char *name, size_t *out, tb_error **err);

/**
 * The recovery table: what multiplies vector m for task t, M rows of T, row-major. NaN in the column of a task that
 * cannot be recovered.
 *
 * @param out       room for `capacity` numbers; may be NULL where that is 0
 * @param capacity  numbers that `out` has room for
 * @param needed    set to M*T, also on TB_ERR_BUFFER_TOO_SMALL; may be NULL
 * @return TB_OK; TB_ERR_BUFFER_TOO_SMALL; TB_ERR_INVALID_ARGUMENT where only a base is open
 */
tb_status tb_basis_coefficients(const tb_basis *basis,
                                double *out,
                                size_t capacity,
                                size_t *needed,
                                tb_error **err);

/**
 * Reads everything and checks it: that basis and base are of one model, that every number is finite, and of a bundle
 * every checksum. Takes as long as reading the files does.
 *
 * @return TB_OK; TB_ERR_MISMATCH; TB_ERR_FORMAT; TB_ERR_IO. The message names file and tensor
 */
tb_status tb_basis_verify(const tb_basis *basis, tb_error **err);

/**
 * Frees a basis. Weights and encoders made from it stay valid, and with them the files and the cache they need. NULL
 * is fine.
 */
void tb_basis_free(tb_basis *basis);

/* ---- The cache of reconstructed weights, which belongs to a basis ------------------------------------------------ */

/** Statistics of the cache of weights. */
typedef struct tb_cache_statistics {
    /** sizeof(tb_cache_statistics), set by the caller. */
    size_t struct_size;
    /** Requests that found their weights ready. */
    uint64_t hits;
    /** Requests that had to reconstruct. */
    uint64_t misses;
    /** Weights that were dropped to keep within the budget. */
    uint64_t evictions;
    /** Weights that are kept now. */
    uint64_t entries;
    /** Bytes that they take. */
    uint64_t bytes;
    /** Bytes that may be kept. */
    uint64_t budget;
    /** Nanoseconds spent reconstructing. */
    uint64_t reconstruct_ns;
    /** Prefetches that tb_weights_cancel_prefetch() stopped, before or while they were reconstructed. */
    uint64_t cancelled;
    /** Promoted sessions that are kept now. `bytes` and `evictions` count them too. */
    uint64_t promoted;
    /** Bytes that they take. */
    uint64_t promoted_bytes;
    /** Bytes of memory that held weights and waits to hold others; within the budget, beside `bytes`. */
    uint64_t spare_bytes;
} tb_cache_statistics;

/**
 * Sets how many bytes of reconstructed weights and promoted sessions are kept, 0 for none, and drops what no longer
 * fits, the least recently used first. What is in use (by a running call, or by views) stays alive until it no longer
 * is, beside the budget. A budget beyond all memory is none at all. Bases that share a cache share its budget.
 */
tb_status tb_cache_set_budget(const tb_basis *basis, uint64_t bytes, tb_error **err);

/**
 * Tells how the cache has done since the basis was opened.
 *
 * @param stats  `struct_size` set by the caller; the rest is zero on failure
 */
tb_status tb_cache_stats(const tb_basis *basis, tb_cache_statistics *stats, tb_error **err);

/** Drops the least recently used weights until at most `bytes` are kept; the budget stays as it is. */
tb_status tb_cache_trim(const tb_basis *basis, uint64_t bytes, tb_error **err);

/* ---- The weights of a task or of any arithmetic of tasks --------------------------------------------------------- */

/**
 * The weights of a task expression. They never change. Making the handle computes only the coefficients; the weights
 * themselves are reconstructed when they are first needed, and are kept in the basis's cache. Shareable between
 * threads.
 */
typedef struct tb_weights tb_weights;

/** A task and its scaling coefficient. This struct never changes, so arrays of it are safe. */
typedef struct tb_task {
    /** The task's name, UTF-8. */
    const char *name;
    /** The factor of its task vector; finite. */
    double lambda;
} tb_task;

/** A tensor of some weights: f32, row-major. Everything in it belongs to the weights handle. */
typedef struct tb_tensor {
    /** sizeof(tb_tensor), set by the caller. */
    size_t struct_size;
    /** The canonical name: `visual.proj`, `visual.transformer.resblocks.0.attn.in_proj_weight` and so on. */
    const char *name;
    /** `count` values. */
    const float *data;
    /** The product of the extents. */
    size_t count;
    /** `rank` extents. */
    const size_t *shape;
    /** The number of dimensions. */
    size_t rank;
} tb_tensor;

/**
 * Names the weights of a task expression: `MNIST`, `MNIST@0.8`, `-MNIST@0.5`, `MNIST@0.3 + SVHN@0.3 - Cars@0.2`,
 * `merged@0.4` (the sum of the M vectors), `all@0.3` (the sum of all tasks), `base`. The number is the scaling
 * coefficient, 1 where there is none. Nothing is reconstructed yet.
 *
 * @param expression  the task expression; names with odd characters in double quotes
 * @param out         set to the new handle, which the caller frees with tb_weights_free(); NULL on failure
 * @return TB_OK; TB_ERR_INVALID_ARGUMENT for an expression that cannot be read or is not finite; TB_ERR_NOT_FOUND for
 *         an unknown task; TB_ERR_NOT_RECOVERABLE for one that this basis cannot give back
 */
tb_status tb_weights_create(const tb_basis *basis, const char *expression, tb_weights **out, tb_error **err);

/**
 * Names the weights of base + lambda[0]*task[0] + ... + lambda[n-1]*task[n-1]. No tasks give the base. A name is taken
 * as it is and needs no quotes.
 *
 * @param tasks  `n` tasks; may be NULL where that is 0. Not needed after the call
 * @param out    as in tb_weights_create()
 * @return as tb_weights_create()
 */
tb_status tb_weights_create_from_tasks(const tb_basis *basis,
                                       const tb_task *tasks,
                                       size_t n,
                                       tb_weights **out,
                                       tb_error **err);

/**
 * Names the weights of base + coefficients[0]*s[0] + ... + coefficients[M-1]*s[M-1] + mean*s_mean, with s the basis
 * vectors and s_mean PCA's mean vector. Residuals, the vectors of single tasks that a bundle can have, are not among
 * them: tb_weights_create() with the task's name adds its own.
 *
 * @param coefficients  `n` finite numbers, as tb_weights_coefficients() gives them
 * @param n             must be M
 * @param mean          what multiplies the mean vector; must be 0 where there is none
 * @param out           as in tb_weights_create()
 * @return TB_OK; TB_ERR_INVALID_ARGUMENT
 */
tb_status tb_weights_create_from_coefficients(const tb_basis *basis,
                                              const double *coefficients,
                                              size_t n,
                                              double mean,
                                              tb_weights **out,
                                              tb_error **err);

/**
 * The expression in its usual spelling, UTF-8; the coefficients, where it was made of those. It belongs to the handle.
 * NULL for NULL.
 */
const char *tb_weights_expression(const tb_weights *weights);

/**
 * Writes the coefficients of the basis vectors: M numbers, and one for PCA's mean. Where they differ between groups of
 * parameters, tb_weights_coefficients_of() gives those of one.
 *
 * @param out       f64 [M]; may be NULL where `capacity` is 0
 * @param capacity  numbers that `out` has room for: at least M, or TB_ERR_BUFFER_TOO_SMALL
 * @param needed    set to M, also on TB_ERR_BUFFER_TOO_SMALL; may be NULL
 * @param mean      set to what multiplies the mean; may be NULL
 * @return TB_OK; TB_ERR_BUFFER_TOO_SMALL; TB_ERR_UNSUPPORTED for weights whose expression has groups
 */
tb_status tb_weights_coefficients(const tb_weights *weights,
                                  double *out,
                                  size_t capacity,
                                  size_t *needed,
                                  double *mean,
                                  tb_error **err);

/**
 * Reconstructs now, unless the weights are ready: afterwards the first call that needs them finds them in the cache,
 * as far as its budget goes. They are made in the form that the encoder of the basis takes that was made or used last;
 * where there is none yet, and for tb_weights_tensor(), one f32 after another.
 *
 * @return TB_OK; TB_ERR_MISMATCH where base and basis are not of one model; TB_ERR_OUT_OF_MEMORY
 */
tb_status tb_weights_prepare(const tb_weights *weights, tb_error **err);

/**
 * Reconstructs the weights in the background, unless they are ready, and returns at once. A failure shows when
 * the weights are needed. The handle may be freed at any time; what has not begun when the last handle of the basis,
 * its weights and encoders is freed never does.
 *
 * Each cache has one thread for this, which reconstructs one after the other, first come, first served, and ends when
 * nothing is wanted any more: however much is prefetched, memory stays within the budget and the weights that are
 * being reconstructed. What several ask for is reconstructed once. A caller that needs weights being reconstructed
 * waits for that thread instead of doing the work twice; where their turn has not come, they are reconstructed at
 * once, in the thread that needs them.
 *
 * The least recently used weights make room, those that were prefetched and have not been needed yet among them:
 * prefetching more than the budget has room for leaves the last ones.
 *
 * @return TB_OK; TB_ERR_OUT_OF_MEMORY where the system gives no thread
 */
tb_status tb_weights_prefetch(const tb_weights *weights, tb_error **err);

/**
 * Takes back what tb_weights_prefetch() asked for through this handle, however often: what has not begun never does,
 * and a reconstruction stops within a millisecond or so and frees its memory. It goes on where a caller already waits
 * for these weights, or another handle has prefetched the same and not taken it back (freeing that handle does not).
 * Nothing happens where none is under way.
 *
 * @param stopped  set to 1 where it was stopped, and the weights do not become ready, else to 0; may be NULL
 */
tb_status tb_weights_cancel_prefetch(const tb_weights *weights, int32_t *stopped, tb_error **err);

/**
 * Sets `*out` to 1 where the weights are reconstructed and still kept, so that the next call that needs them need not
 * wait; else to 0.
 */
tb_status tb_weights_is_ready(const tb_weights *weights, int32_t *out, tb_error **err);

/**
 * Sets `*out` to the number of tensors, those of the image tower. Reconstructs, and holds on to the weights as
 * tb_weights_tensor() does.
 *
 * @return what tb_weights_prepare() returns
 */
tb_status tb_weights_tensor_count(const tb_weights *weights, size_t *out, tb_error **err);

/**
 * A view of the tensor called `name`. `tensor->struct_size` has to be set.
 *
 * Reconstructs, and from now on the handle holds on to the weights whatever the cache's budget: the view is valid
 * until the handle is freed.
 *
 * @param name    the canonical name
 * @param tensor  `struct_size` set by the caller; the rest is zero on failure
 * @return TB_OK; TB_ERR_NOT_FOUND; TB_ERR_UNSUPPORTED for a tensor that is not of floats; what tb_weights_prepare()
 *         returns
 */
tb_status tb_weights_tensor(const tb_weights *weights, const char *name, tb_tensor *tensor, tb_error **err);

/**
 * A view of tensor `index`, 0 <= index < tb_weights_tensor_count(), in the order of the base's file; otherwise as
 * tb_weights_tensor().
 */
tb_status tb_weights_tensor_at(const tb_weights *weights, size_t index, tb_tensor *tensor, tb_error **err);

/**
 * Copies the tensor called `name` into the caller's buffer. Reconstructs if need be; nothing is held on to.
 *
 * @param out       f32, the tensor's shape; may be NULL where `capacity` is 0
 * @param capacity  floats that `out` has room for: at least as many as the tensor has, or TB_ERR_BUFFER_TOO_SMALL
 * @param needed    set to the number of values, also on TB_ERR_BUFFER_TOO_SMALL; may be NULL
 * @return as tb_weights_tensor(); TB_ERR_BUFFER_TOO_SMALL
 */
tb_status tb_weights_copy_tensor(const tb_weights *weights,
                                 const char *name,
                                 float *out,
                                 size_t capacity,
                                 size_t *needed,
                                 tb_error **err);

/** Frees the handle, and the views that were taken through it. NULL is fine. */
void tb_weights_free(tb_weights *weights);

/* ---- Coefficients by groups of parameters ------------------------------------------------------------------------ */

/**
 * Names the weights in which each group of parameters has coefficients of its own: the group's are row g of
 * `coefficients`. A parameter that several groups have goes by the most specific one, as in expressions: a name in
 * double quotes, then a pattern in double quotes (`"visual.*.attn.*"`), then blocks with a kind (`blocks.0-5.attn`),
 * then blocks, then a kind (`stem`, `attn`, `mlp`, `norm`, `proj`, also with `.bias`), then `*`, all the rest.
 * tb_weights_expression() gives an expression for them.
 *
 * @param groups        `n` groups, UTF-8, as expressions write them or tb_basis_group() gives them; not needed after
 *                      the call
 * @param n             the number of groups
 * @param coefficients  f64 [n, vectors], finite, row-major
 * @param vectors       must be M
 * @param means         n numbers, what multiplies the mean vector in each group; NULL: 0
 * @param out           set to the new handle, which the caller frees with tb_weights_free(); NULL on failure
 * @return TB_OK; TB_ERR_INVALID_ARGUMENT, also where a parameter is in no group or in two that are equally specific,
 *         and for a group without parameters; TB_ERR_NOT_FOUND for a mean where there is none
 */
tb_status tb_weights_create_grouped(const tb_basis *basis,
                                    const char *const *groups,
                                    size_t n,
                                    const double *coefficients,
                                    size_t vectors,
                                    const double *means,
                                    tb_weights **out,
                                    tb_error **err);

/**
 * Writes the coefficients of the basis vectors for one parameter: M numbers, and one for PCA's mean.
 *
 * @param parameter  the canonical name, as tb_tensor has it
 * @param out        f64 [M]; may be NULL where `capacity` is 0
 * @param capacity   numbers that `out` has room for: at least M, or TB_ERR_BUFFER_TOO_SMALL
 * @param needed     set to M, also on TB_ERR_BUFFER_TOO_SMALL; may be NULL
 * @param mean       set to what multiplies the mean; may be NULL
 * @return TB_OK; TB_ERR_BUFFER_TOO_SMALL; TB_ERR_NOT_FOUND for a parameter that the basis does not have
 */
tb_status tb_weights_coefficients_of(const tb_weights *weights,
                                     const char *parameter,
                                     double *out,
                                     size_t capacity,
                                     size_t *needed,
                                     double *mean,
                                     tb_error **err);

/**
 * The number of groups of a ready grouping: `whole` (1), `kind` (stem, attn, mlp, norm, proj), `block` (each block,
 * and the kinds outside the blocks), `layer` (a weight and its bias), `parameter`.
 *
 * @param grouping  one of these words
 * @param out       set to the number of groups
 * @return TB_OK; TB_ERR_NOT_FOUND for another word; TB_ERR_INVALID_ARGUMENT where there is only a base
 */
tb_status tb_basis_group_count(const tb_basis *basis, const char *grouping, size_t *out, tb_error **err);

/**
 * Writes a group of a ready grouping as expressions and tb_weights_create_grouped() spell it.
 *
 * @param grouping  as in tb_basis_group_count()
 * @param index     the group, below its count
 * @param out       characters, UTF-8, with a zero at their end; may be NULL where `capacity` is 0
 * @param capacity  bytes that `out` has room for
 * @param needed    set to the bytes that it takes with the zero, also on TB_ERR_BUFFER_TOO_SMALL; may be NULL
 * @return TB_OK; TB_ERR_BUFFER_TOO_SMALL; TB_ERR_INVALID_ARGUMENT for another index; as tb_basis_group_count()
 */
tb_status tb_basis_group(const tb_basis *basis,
                         const char *grouping,
                         size_t index,
                         char *out,
                         size_t capacity,
                         size_t *needed,
                         tb_error **err);

/* ---- How long it is what expressions add to the base, and how far it points apart -------------------------------- */

/**
 * The dot product of what two task expressions add to the base, over all parameters: computed from the products of the
 * basis vectors, all of which the first call on a basis reads; it keeps M*M numbers per parameter.
 *
 * @param a    a task expression, UTF-8
 * @param b    another, or the same
 * @param out  set to the product, NaN on failure
 * @return TB_OK; TB_ERR_INVALID_ARGUMENT for an expression that cannot be read, where the product is not finite, and
 *         where only a base is open; TB_ERR_NOT_FOUND for an unknown task; TB_ERR_NOT_RECOVERABLE for one that this
 *         basis cannot give back; TB_ERR_FORMAT for vectors that are not finite
 */
tb_status tb_basis_dot(const tb_basis *basis, const char *a, const char *b, double *out, tb_error **err);

/**
 * The length of what a task expression adds to the base: the square root of its tb_basis_dot() with itself.
 *
 * @param a    a task expression, UTF-8
 * @param out  set to the length, NaN on failure
 * @return as tb_basis_dot()
 */
tb_status tb_basis_norm(const tb_basis *basis, const char *a, double *out, tb_error **err);

/**
 * The cosine of the angle between what two task expressions add to the base, from -1 to 1.
 *
 * @param a    a task expression, UTF-8
 * @param b    another
 * @param out  set to the cosine, NaN on failure
 * @return as tb_basis_dot(); TB_ERR_INVALID_ARGUMENT also where one of them adds nothing, as `base` does
 */
tb_status tb_basis_cosine(const tb_basis *basis, const char *a, const char *b, double *out, tb_error **err);

/* ---- Images, and preprocessing alone ----------------------------------------------------------------------------- */

/** Red, green, blue: three bytes per pixel. */
#define TB_PIXELS_RGB8 0

/** Red, green, blue, alpha. Alpha weighs the colours while resizing, and is then dropped. */
#define TB_PIXELS_RGBA8 1

/** Gray: one byte per pixel. */
#define TB_PIXELS_GRAY8 2

/** Blue, green, red. */
#define TB_PIXELS_BGR8 3

/** Blue, green, red, alpha; alpha as in TB_PIXELS_RGBA8. */
#define TB_PIXELS_BGRA8 4

/** A decoded image in the caller's memory. This struct never changes, so arrays of it are safe. */
typedef struct tb_image {
    /** Row after row, the top one first: (height - 1) * row_stride + width * (bytes per pixel) bytes. */
    const uint8_t *data;
    /** The width in pixels, at least 1. */
    size_t width;
    /** The height in pixels, at least 1. */
    size_t height;
    /** Bytes from the start of a row to the start of the next; 0: rows follow each other without a gap. */
    size_t row_stride;
    /** One of the TB_PIXELS_ constants. */
    uint32_t format;
} tb_image;

/**
 * Turns an image into what the encoder takes, as open_clip's evaluation transform does: the shortest side resized to
 * `size` (bicubic, antialiased, Pillow's arithmetic), the centre cropped, normalised with CLIP's mean and deviation.
 * Models that want something else: tb_encoder_preprocess().
 *
 * @param size      S: the side in pixels, tb_encoder_properties.image_size
 * @param out       f32 [3,S,S]; may be NULL where `capacity` is 0
 * @param capacity  floats that `out` has room for
 * @param needed    set to 3*S*S, also on TB_ERR_BUFFER_TOO_SMALL; may be NULL
 * @return TB_OK; TB_ERR_INVALID_ARGUMENT for an image without pixels, an unknown format, a row_stride that is smaller
 *         than a row, a size that is not 1 to 8192, or an image so long that its longer side would have more than
 *         2^26 pixels when it is resized; TB_ERR_BUFFER_TOO_SMALL
 */
tb_status tb_preprocess(const tb_image *image,
                        size_t size,
                        float *out,
                        size_t capacity,
                        size_t *needed,
                        tb_error **err);

/* ---- What the shapes of an encoder's weights do not tell --------------------------------------------------------- */

/** x*sigmoid(1.702*x): OpenAI's models. As an option: what is read, and this where nothing says it. */
#define TB_ACTIVATION_QUICK_GELU 0

/** x*Phi(x): most models that open_clip trained. */
#define TB_ACTIVATION_GELU 1

/** GELU's approximation by tanh. */
#define TB_ACTIVATION_GELU_TANH 2

/** x*sigmoid(x), the gate of gated MLPs: EVA-02. Not an option's. */
#define TB_ACTIVATION_SILU 4

/** An option alone: TB_ACTIVATION_QUICK_GELU whatever the bundle or a configuration says. */
#define TB_ACTIVATION_QUICK_GELU_ALWAYS 3

/** The pooling that is read from the configuration. */
#define TB_POOLING_AS_READ 0

/** The class token, normalised: nearly all published towers. */
#define TB_POOLING_CLASS_TOKEN 1

/** The mean of the patches' tokens, then normalised: CLIPA. */
#define TB_POOLING_MEAN_THEN_NORM 2

/** The patches' tokens normalised, then their mean. */
#define TB_POOLING_NORM_THEN_MEAN 3

/**
 * The mean of the patches' tokens, neither normalised nor projected, so that an embedding is as long as the tower is
 * wide: what the classifier of CLIPForImageClassification takes.
 */
#define TB_POOLING_PATCH_MEAN 4

/** Attention from a probe: SigLIP, the Perception Encoder. */
#define TB_POOLING_ATTENTION 5

/** The class token beside the mean of the patches, both normalised: DINOv2's classifiers. */
#define TB_POOLING_CLASS_AND_MEAN 6

/** The class token beside the distillation token, both normalised: the classifiers of a distilled DeiT. */
#define TB_POOLING_CLASS_AND_DISTILLATION 7

/** The resizing that is read from the configuration. */
#define TB_RESIZE_AS_READ 0

/** The shorter side, and the centre is cropped. */
#define TB_RESIZE_SHORTEST 1

/** Both sides, whatever the ratio. */
#define TB_RESIZE_SQUASH 2

/** The longer side, and the rest is filled. */
#define TB_RESIZE_LONGEST 3

/** The interpolation that is read from the configuration. */
#define TB_INTERPOLATION_AS_READ 0

/** The pixel under the centre. */
#define TB_INTERPOLATION_NEAREST 1

/** The mean of the pixels covered. */
#define TB_INTERPOLATION_BOX 2

/** A triangle. */
#define TB_INTERPOLATION_BILINEAR 3

/** A windowed sinc that is as narrow as the box. */
#define TB_INTERPOLATION_HAMMING 4

/** Keys' cubic. */
#define TB_INTERPOLATION_BICUBIC 5

/** A windowed sinc of three lobes. */
#define TB_INTERPOLATION_LANCZOS 6

/* ---- The image encoder ------------------------------------------------------------------------------------------- */

/** Promotion of tasks after a number of runs. The default. */
#define TB_PROMOTION_AUTO 0

/** No promotion. */
#define TB_PROMOTION_OFF 1

/** Promotion by tb_encoder_promote() alone. */
#define TB_PROMOTION_MANUAL 2

/** Weights on the device that computes where that can be had, else on the host, with a warning. The default. */
#define TB_WEIGHTS_ON_AUTO 0

/** Weights in the host's memory. A GPU gets them anew in every run. */
#define TB_WEIGHTS_ON_HOST 1

/** Weights in the memory of the device that computes; an error where they cannot be there. */
#define TB_WEIGHTS_ON_DEVICE 2

/**
 * A self-test where it takes no memory to speak of: the base is stored as f32, or the budget of the basis's cache has
 * room for its weights beside a task's. Not with TB_RESIDENCY_BLOCKWISE. The default.
 */
#define TB_SELF_TEST_AUTO 0

/** A self-test whatever memory it takes. Not with TB_RESIDENCY_BLOCKWISE, which has no room for it. */
#define TB_SELF_TEST_ON 1

/** No self-test. */
#define TB_SELF_TEST_OFF 2

/** The graph that follows from the architecture. */
#define TB_GRAPH_BUILT 0

/** The graph that the bundle carries. */
#define TB_GRAPH_BUNDLE 1

/** The file that tb_encoder_options.graph named. */
#define TB_GRAPH_FILE 2

/**
 * The image encoder of one architecture. It holds no weights: every call names those it runs with, so calls for
 * different tasks may run at the same time on one encoder. Shareable between threads.
 */
typedef struct tb_encoder tb_encoder;

/**
 * Options of tb_encoder_create(). Zero means default everywhere. What is said to be "with" something is ignored
 * without it (tensorrt_cache and the like, device_budget, promote_after), except that TB_WEIGHTS_ON_DEVICE and
 * cuda_graphs are TB_ERR_UNSUPPORTED without a GPU.
 */
typedef struct tb_encoder_options {
    /** sizeof(tb_encoder_options), as the program was compiled. */
    size_t struct_size;
    /**
     * The execution provider: `cpu`, `cuda`, `tensorrt`, or `auto`, which takes CUDA where it works, else the CPU.
     * NULL: `cpu`. One that cannot be had is TB_ERR_UNSUPPORTED, and the message says what is missing.
     */
    const char *provider;
    /** The device of the provider, counted from 0; `cpu` has one. */
    uint32_t device;
    /** Threads that compute, all runs together: at most one per processor, or 64; 0: one per processor. */
    uint32_t threads;
    /** Runs that may be in progress at once; further calls wait. 0: 1. Each has threads / concurrency threads. */
    uint32_t concurrency;
    /**
     * One of the TB_ACTIVATION_ constants. Shapes do not tell it, and the wrong one gives plausible, wrong embeddings.
     * 0: as read: of the bundle, else of the configuration beside the base, else QuickGELU, with a warning.
     */
    uint32_t activation;
    /** Attention heads; 0: as read, as for activation, else those of published towers, else width / 64. */
    uint32_t heads;
    /**
     * The side of the images in pixels; 0: what the base's positional embedding says. Any other than that is
     * TB_ERR_UNSUPPORTED.
     */
    uint32_t image_size;
    /**
     * The level at which ONNX Runtime's messages go to the log callback: TB_LOG_...; 0: as before, which begins at
     * TB_LOG_WARN. There is one ONNX Runtime, so this changes it for the whole process.
     */
    uint32_t log_level;
    /**
     * Nonzero: the built graph, though the bundle carries another one. 0: what the bundle carries, unless graph is
     * given.
     */
    uint32_t built_graph;
    /**
     * The file of ONNX Runtime's library, UTF-8. NULL: `ORT_DYLIB_PATH`, then beside the program and beside this
     * library, then the system's loader. A process can have only one.
     */
    const char *onnxruntime;
    /**
     * One of the TB_PROMOTION_ constants: which tasks get a session with their weights frozen into it. Such a session
     * runs faster, takes as much memory as the weights (in the budget of the basis's cache), and is built in the
     * background. Embeddings before and after agree to 1e-5 of their size; with TB_PROMOTION_OFF the same call gives
     * the same bits every time.
     */
    uint32_t promotion;
    /** Runs before promotion with TB_PROMOTION_AUTO; 0: 32. */
    uint32_t promote_after;
    /**
     * An image encoder that was exported as .onnx with the base's weights in it, to run instead of the built one;
     * UTF-8. NULL: what the bundle carries, else the built one. Its constants are compared with the base's values;
     * those that the basis changes become its inputs, in the order and type that it wants. The encoder then belongs to
     * bases of this model.
     */
    const char *graph;
    /** The file that says what the constants of graph are, as `taskbasis bind` writes it. NULL: found out. */
    const char *map;
    /**
     * The folder of `tensorrt` for the engines that it builds, which takes minutes, and for its timings; UTF-8, made
     * where it is not there. NULL: nothing is kept.
     */
    const char *tensorrt_cache;
    /**
     * Nonzero: `tensorrt` may compute in half floats. The first embeddings of an encoder, and of each
     * promoted task, are then compared with the CPU's, and TB_ERR_RUNTIME where they are others.
     */
    uint32_t tensorrt_fp16;
    /** The least cosine between an embedding and the CPU's with tensorrt_fp16; 0: 0.999. */
    float tensorrt_min_cosine;
    /**
     * For weights on a device, bytes of its memory for base, basis and the weights of tasks; 0: three quarters of
     * what is free. Where another encoder has the basis there already, its budget holds.
     */
    uint64_t device_budget;
    /**
     * One of the TB_WEIGHTS_ON_ constants: where `cuda` and `tensorrt` have the weights of tasks reconstructed.
     * On the device none of them crosses the bus at a switch, and no task is promoted by itself. What that takes (a
     * driver, room for the basis) and is not there is TB_ERR_RUNTIME_MISSING or TB_ERR_OUT_OF_MEMORY with
     * TB_WEIGHTS_ON_DEVICE, and told in tb_encoder_properties.weights_fallback with TB_WEIGHTS_ON_AUTO.
     */
    uint32_t weights_on;
    /**
     * Nonzero: with `cuda` and weights on the device, runs are recorded as CUDA graphs, one for each number of images
     * and memory that they are given, and replayed later, which spares the host some hundred launches per run. The
     * first run of each is made three times more. For few batch sizes.
     */
    uint32_t cuda_graphs;
    /** Nonzero: TB_RESIDENCY_BLOCKWISE, whatever residency says. */
    size_t streamed;
    /** The epsilon that every layer normalisation adds to the variance; 0: as read, as for activation, else 1e-5. */
    float norm_epsilon;
    /** One of the TB_POOLING_ constants; 0: as read, as for activation, else the class token. */
    uint32_t pooling;
    /**
     * The configuration of the base, instead of those beside it (open_clip_config.json, config.json,
     * preprocessor_config.json); UTF-8. NULL: those; `none`: no configuration.
     */
    const char *config;
    /**
     * Three floats: what the channels of images (red, green, blue; 0 to 1) are freed of. NULL: as read, as for
     * activation, else CLIP's.
     */
    const float *mean;
    /** Three floats: what the channels of images are divided by. NULL: as for mean. */
    const float *std;
    /** One of the TB_RESIZE_ constants; 0: as read, as for activation, else TB_RESIZE_SHORTEST. */
    uint32_t resize;
    /** One of the TB_INTERPOLATION_ constants; 0: as read, as for activation, else TB_INTERPOLATION_BICUBIC. */
    uint32_t interpolation;
    /** The pixels that sides are resized to before the image is cropped; 0: as read, else the image size. */
    size_t resize_edge;
    /**
     * One of the TB_SELF_TEST_ constants, for a bundle with a golden embedding: whether the first call is preceded by
     * the run of one image with the base's weights, which has to give that embedding (to 1e-4, or to a cosine of 0.999
     * where less than f32 is computed with). Once for each bundle and provider in a process; else TB_ERR_MISMATCH.
     */
    size_t self_test;
    /** One of the TB_RESIDENCY_ constants: how much of a task's weights a run has in memory. */
    size_t residency;
    /**
     * One of the TB_PRECISION_ constants: the type that the matrices of linear layers are multiplied in, on the CPU.
     * With TB_PRECISION_BF16 and TB_PRECISION_INT8 a GPU's provider, and a graph of which no linear layer is
     * recognised, are TB_ERR_UNSUPPORTED; TB_PRECISION_AUTO is TB_PRECISION_F32 there, and for every graph but the
     * built one.
     */
    size_t precision;
} tb_encoder_options;

/** Properties of an encoder, from tb_encoder_info(): what is really used. The texts belong to the encoder. */
typedef struct tb_encoder_properties {
    /** sizeof(tb_encoder_properties), set by the caller. */
    size_t struct_size;
    /** One of the TB_ACTIVATION_ constants. */
    uint32_t activation;
    /** One of the TB_GRAPH_ constants: which graph runs. Of a user's graph the activation is whatever is in it. */
    uint32_t graph;
    /** The execution provider that runs: `cpu`, `cuda` or `tensorrt`. */
    const char *provider;
    /** The file of the ONNX Runtime that is loaded. */
    const char *onnxruntime_path;
    /** The version of the ONNX Runtime that is loaded. */
    const char *onnxruntime_version;
    /** Threads that one run computes with. */
    size_t threads;
    /** Sessions that are open; they are opened as calls overlap. */
    size_t sessions;
    /** S: images are f32 [n,3,S,S]. */
    size_t image_size;
    /** e: embeddings are f32 [n,e]. */
    size_t embedding;
    /**
     * Channels of the residual stream; 0, as layers and heads, where only a user's graph is known of the encoder: the
     * base holds no vision transformer, and activation, norm_epsilon, pooling and patch_size say nothing of it.
     */
    size_t width;
    /** Residual blocks. */
    size_t layers;
    /** Attention heads per block. */
    size_t heads;
    /** Side of a patch in pixels. */
    size_t patch_size;
    /** The device of the provider, counted from 0. */
    size_t device;
    /** The reason why `auto` took the CPU; NULL where it did not, or was not asked for. */
    const char *fallback;
    /** The memory that weights of tasks are reconstructed in: TB_WEIGHTS_ON_HOST or TB_WEIGHTS_ON_DEVICE. */
    size_t weights_on;
    /** The reason why TB_WEIGHTS_ON_AUTO took the host's memory, though a GPU computes; else NULL. */
    const char *weights_fallback;
    /** One of the TB_RESIDENCY_ constants. */
    size_t streamed;
    /** Bytes of weights that one run needs in memory at a time. */
    size_t weight_bytes;
    /** The epsilon that every layer normalisation adds to the variance. */
    float norm_epsilon;
    /** One of the TB_POOLING_ constants, never 0. */
    uint32_t pooling;
    /**
     * A sentence on what nothing told, so that OpenAI's form was assumed, and which options settle it.
     * NULL where everything was told. Such a sentence is a warning of the log too.
     */
    const char *assumed;
    /** The mean of the channels of images. */
    float mean[3];
    /** The standard deviation of the channels of images. */
    float std[3];
    /** One of the TB_RESIZE_ constants, never 0. */
    uint32_t resize;
    /** One of the TB_INTERPOLATION_ constants, never 0. */
    uint32_t interpolation;
    /** The pixels that sides are resized to before the image is cropped. */
    size_t resize_edge;
    /** One of the TB_PRECISION_ constants, never TB_PRECISION_AUTO: of several the narrowest type. */
    size_t precision;
    /**
     * The precision of each kind of layer: `f32`, `bf16`, `int8`, or those of
     * `patches=bf16,qkv=int8,out=int8,fc=int8,proj=bf16`.
     */
    const char *precisions;
    /** The reason why TB_PRECISION_AUTO took these: what was measured, or why f32 runs; NULL without it. */
    const char *precision_reason;
} tb_encoder_properties;

/**
 * Makes an encoder for the architecture of the basis's base, which is read off the shapes of its tensors. It runs any
 * weights of that architecture, also those of another basis. Costs some 20 ms and 10 MB, whatever the model's size.
 * With weights on a device the basis is brought there too, unless it is there for another encoder, and goes with the
 * last of them.
 *
 * @param options  NULL for all defaults
 * @param out      set to the new handle, which the caller frees with tb_encoder_free(); NULL on failure
 * @return TB_OK; TB_ERR_MISMATCH where the base holds no vision transformer and no graph is to be run (by
 *         options->graph, or the bundle's), the configuration beside it is of other weights, or options->graph holds
 *         not its weights; TB_ERR_IO and TB_ERR_FORMAT for its files;
 *         TB_ERR_RUNTIME_MISSING, with every place
 *         that was searched, and for a driver that a GPU lacks; TB_ERR_INVALID_ARGUMENT for more
 *         threads than processors and than 64, for more than 4096 concurrent runs, for options that exclude each
 *         other, and for another ONNX Runtime than the one that is loaded; TB_ERR_UNSUPPORTED for an image size that
 *         the base does not have, a graph that takes or gives other types than floats or is to run block by block,
 *         a provider that this ONNX Runtime was built without, or a device that `cpu` does not have;
 *         TB_ERR_OUT_OF_MEMORY; TB_ERR_RUNTIME
 */
tb_status tb_encoder_create(const tb_basis *basis,
                            const tb_encoder_options *options,
                            tb_encoder **out,
                            tb_error **err);

/**
 * Tells what is really used.
 *
 * @param info  `struct_size` set by the caller; the rest is zero on failure
 */
tb_status tb_encoder_info(const tb_encoder *encoder, tb_encoder_properties *info, tb_error **err);

/**
 * Gives back the memory that ONNX Runtime keeps for the next call: closes the sessions that no call is using. The next
 * call opens one again, which costs some 20 ms. The encoder's graph and settings stay.
 */
tb_status tb_encoder_trim(const tb_encoder *encoder, tb_error **err);

/**
 * Frees an encoder. NULL is fine. Waits for a session that is being built for a promoted task: up to some seconds for
 * a large model.
 */
void tb_encoder_free(tb_encoder *encoder);

/* ---- Images in, embeddings out ----------------------------------------------------------------------------------- */

/**
 * Embeds `n` preprocessed images with these weights, in one run; the embeddings are not normalised. The weights are
 * reconstructed if they are not ready; nothing of them is copied. A promoted task runs in its own session instead.
 * Memory grows with `n`: some 3 MB per image for ViT-B-32. Calls of several threads run at once up to
 * tb_encoder_options.concurrency, and then wait.
 *
 * @param weights   of any basis, as long as its base has the encoder's architecture
 * @param pixels    f32 [n,3,S,S], as tb_preprocess() gives them
 * @param out       f32 [n,e]
 * @param capacity  floats that `out` has room for: at least n*e, or TB_ERR_BUFFER_TOO_SMALL
 * @return TB_OK; TB_ERR_MISMATCH where the weights are of another architecture; what tb_weights_prepare() returns;
 *         TB_ERR_OUT_OF_MEMORY; TB_ERR_RUNTIME. On failure `out` is as it was
 */
tb_status tb_encoder_encode(const tb_encoder *encoder,
                            const tb_weights *weights,
                            const float *pixels,
                            size_t n,
                            float *out,
                            size_t capacity,
                            tb_error **err);

/**
 * Preprocesses `n` images and embeds them, as tb_encoder_preprocess() and tb_encoder_encode() do.
 *
 * @param images    `n` images, of any sizes and formats
 * @param out       f32 [n,e]
 * @param capacity  floats that `out` has room for: at least n*e, or TB_ERR_BUFFER_TOO_SMALL
 * @return what those two return; the message names the image that is wrong. On failure `out` is as it was
 */
tb_status tb_encoder_encode_images(const tb_encoder *encoder,
                                   const tb_weights *weights,
                                   const tb_image *images,
                                   size_t n,
                                   float *out,
                                   size_t capacity,
                                   tb_error **err);

/**
 * Turns an image into what this encoder takes: as tb_preprocess() does, but with the mean, deviation, resizing and
 * interpolation of its model (tb_encoder_properties), which are not CLIP's for every model.
 *
 * @param out       f32 [3,S,S]; may be NULL where `capacity` is 0
 * @param capacity  floats that `out` has room for
 * @param needed    set to 3*S*S, also on TB_ERR_BUFFER_TOO_SMALL; may be NULL
 * @return as tb_preprocess()
 */
tb_status tb_encoder_preprocess(const tb_encoder *encoder,
                                const tb_image *image,
                                float *out,
                                size_t capacity,
                                size_t *needed,
                                tb_error **err);

/* ---- Weights where the encoder reads them: on a GPU, in its memory ----------------------------------------------- */

/** Statistics of a basis on an encoder's device: its memory, and its hits and misses. */
typedef struct tb_device_statistics {
    /** sizeof(tb_device_statistics), set by the caller. */
    size_t struct_size;
    /** Bytes of base and basis that stay on the device. */
    uint64_t resident_bytes;
    /** Bytes of the slots that the rest is streamed through; 0 where everything stays. */
    uint64_t slot_bytes;
    /** Bytes that have been streamed so far. */
    uint64_t streamed;
    /** Bytes that weights take now, those in use and memory that waits for others among them. */
    uint64_t weights_bytes;
    /** Bytes that they may take: what base, basis and slots leave of the budget. */
    uint64_t weights_budget;
    /** Requests that found their weights there. */
    uint64_t hits;
    /** Requests that had to reconstruct. */
    uint64_t misses;
    /** Weights that were dropped to keep within the budget. */
    uint64_t evictions;
    /** Weights that are kept now. */
    uint64_t entries;
} tb_device_statistics;

/**
 * Reconstructs these weights where this encoder reads them, unless they are there: the next call with them need not.
 * In the host's memory that is tb_weights_prepare(). On a device it returns when the work is in the queue, before it
 * is done.
 *
 * @return TB_OK; TB_ERR_MISMATCH where the weights are of another architecture, and then nothing is reconstructed;
 *         what tb_weights_prepare() returns; on a device TB_ERR_OUT_OF_MEMORY where weights in use leave no
 *         room, TB_ERR_RUNTIME; TB_ERR_UNSUPPORTED with TB_RESIDENCY_BLOCKWISE
 */
tb_status tb_encoder_prepare(const tb_encoder *encoder, const tb_weights *weights, tb_error **err);

/**
 * Sets `*out` to 1 where the next call with these weights need not reconstruct them: they are kept where this encoder
 * reads them, or promoted; else to 0, as always with TB_RESIDENCY_BLOCKWISE and for weights of another
 * architecture.
 */
tb_status tb_encoder_is_prepared(const tb_encoder *encoder,
                                 const tb_weights *weights,
                                 int32_t *out,
                                 tb_error **err);

/**
 * Tells what the basis takes on this encoder's device: nothing where it is not there, or the encoder's weights are in
 * the host's memory, which tb_encoder_info() says.
 *
 * @param stats  `struct_size` set by the caller; the rest is zero on failure
 */
tb_status tb_encoder_device_stats(const tb_encoder *encoder,
                                  const tb_basis *basis,
                                  tb_device_statistics *stats,
                                  tb_error **err);

/* ---- The types that matrices are multiplied in ------------------------------------------------------------------- */

/** Weights and products in 32-bit floats. The default. */
#define TB_PRECISION_F32 0

/**
 * Weights and activations of 8 bits of precision (bf16), sums in 32-bit floats: half the memory per task, and about
 * half the time where the processor has such products.
 */
#define TB_PRECISION_BF16 1

/**
 * Weights and activations of 8-bit integers, with a scale per output and per row: a quarter of the memory, and the
 * fastest. Outliers in activations cost accuracy; measure it.
 */
#define TB_PRECISION_INT8 2

/**
 * The fastest that passed the gate when the bundle was packed (`taskbasis pack --precision auto`), which may be
 * another one per kind of layer; TB_PRECISION_F32 where nothing was measured. tb_encoder_info() tells what and why.
 */
#define TB_PRECISION_AUTO 3

/* ---- How much of a task's weights a run has in memory ------------------------------------------------------------ */

/** All weights of a task, kept for the next run with the task: by the cache, or on the device. The default. */
#define TB_RESIDENCY_WHOLE 0

/**
 * The weights of one block and what is outside the blocks, 40 MB instead of 351 for ViT-B-32
 * (tb_encoder_properties.weight_bytes). Every run reconstructs them anew, past the cache: it takes a reconstruction
 * longer, whatever the number of images. Embeddings agree with the other's to 1e-5, and are the same bits every time.
 * It runs the built graph, and nothing is promoted.
 */
#define TB_RESIDENCY_BLOCKWISE 1

/* ---- Sessions of their own for tasks that run often -------------------------------------------------------------- */

/** Runs with the weights as inputs. */
#define TB_PROMOTION_STATE_INPUTS 0

/** A session is being built, or waits for its turn; runs go on with the weights as inputs. */
#define TB_PROMOTION_STATE_BUILDING 1

/** Runs in a session of its own. */
#define TB_PROMOTION_STATE_PROMOTED 2

/**
 * The session could not be built; runs go on with the weights as inputs. Why is told to the log callback, as
 * TB_LOG_WARN, and by tb_encoder_promote() with `wait`.
 */
#define TB_PROMOTION_STATE_FAILED 3

/** No session, for it would gain nothing: the encoder takes weights packed. */
#define TB_PROMOTION_STATE_UNNEEDED 4

/**
 * Gives these weights a session of their own on this encoder, unless they have one: their matrices are packed once, as
 * ONNX Runtime's kernels like them best, instead of in every run. It is built by a thread of low priority while runs
 * go on, takes over from one run to the next, takes as much memory as the weights in the budget of the basis's cache,
 * and is dropped there when it has not been used for longest. The built graph on the CPU takes packed weights and
 * gains nothing from it: there nothing is done, and TB_OK returned.
 *
 * @param wait  not zero: return when the session is there, or could not be built
 * @return TB_OK; TB_ERR_INVALID_ARGUMENT with TB_PROMOTION_OFF, TB_ERR_UNSUPPORTED with TB_RESIDENCY_BLOCKWISE;
 *         with `wait` also TB_ERR_OUT_OF_MEMORY where the whole budget has no room for it, TB_ERR_RUNTIME, and what
 *         tb_weights_prepare() returns
 */
tb_status tb_encoder_promote(const tb_encoder *encoder,
                             const tb_weights *weights,
                             int32_t wait,
                             tb_error **err);

/**
 * Drops the session that these weights have on this encoder, if there is one, or has one that is being built dropped
 * when it is there. Runs that use it end as if nothing had happened.
 */
tb_status tb_encoder_demote(const tb_encoder *encoder, const tb_weights *weights, tb_error **err);

/**
 * Tells how these weights run on this encoder.
 *
 * @param state  set to one of the TB_PROMOTION_STATE_ constants; 0 on failure
 */
tb_status tb_encoder_promotion(const tb_encoder *encoder,
                               const tb_weights *weights,
                               int32_t *state,
                               tb_error **err);

/* ---- Classification heads ---------------------------------------------------------------------------------------- */

/** exp(logit) over the sum of all classes': one class is right. See tb_head_function(). */
#define TB_FUNCTION_SOFTMAX 1

/** 1 / (1 + exp(-logit)) of each class by itself: any number of classes may be right. See tb_head_function(). */
#define TB_FUNCTION_SIGMOID 2

/** The frozen classification head of a task: logits = W*(e/|e|) + b. Shareable between threads. */
typedef struct tb_head tb_head;

/** A class and its probability. This struct never changes, so arrays of it are safe. */
typedef struct tb_score {
    /** The class, 0 <= class_index < C. */
    size_t class_index;
    /** The class's logit. */
    float logit;
    /** The class's share of the softmax over all classes, or its own sigmoid: see tb_head_function(). */
    float probability;
} tb_score;

/**
 * Opens a head: a safetensors file with `TASK/weight` [C,e] and `TASK/bias` [C], a pickled head, a folder of
 * `head_TASKVal.pt`, `head_TASK.pt` or `TASK.safetensors`, a checkpoint with a classifier (of transformers' CLIP, ViT,
 * DeiT, DINOv2 and SigLIP ForImageClassification, or timm's; with the class names of the `config.json` beside it; a
 * folder of such is called like the task), a linear head of DINOv2's, or a bundle, which holds class names too. A
 * classifier takes the embeddings that its own tower pools (CLIP's: TB_POOLING_PATCH_MEAN) and no others, which
 * tb_head_classify() sees by their length alone.
 *
 * @param task     whose head; NULL where the file has only one
 * @param classes  a JSON file of class names, `{"TASK": ["name", ...]}`; NULL: the classes are called `0`, `1`, ...
 * @param out      set to the new handle, which the caller frees with tb_head_free(); NULL on failure
 * @return TB_OK; TB_ERR_IO; TB_ERR_FORMAT; TB_ERR_NOT_FOUND, with the tasks that there are; TB_ERR_MISMATCH where
 *         there are not as many names as classes
 */
tb_status tb_head_open(const char *path,
                       const char *task,
                       const char *classes,
                       tb_head **out,
                       tb_error **err);

/** Sets `*out` to C, the number of classes. */
tb_status tb_head_classes(const tb_head *head, size_t *out, tb_error **err);

/**
 * Sets `*out` to the name of class `index`, UTF-8, which belongs to the head.
 *
 * @param index  0 <= index < C
 * @return TB_OK; TB_ERR_NOT_FOUND
 */
tb_status tb_head_class_name(const tb_head *head, size_t index, const char **out, tb_error **err);

/**
 * Sets `*out` to the function that makes probabilities of the head's logits: TB_FUNCTION_SOFTMAX, or
 * TB_FUNCTION_SIGMOID (SigLIP's).
 */
tb_status tb_head_function(const tb_head *head, uint32_t *out, tb_error **err);

/**
 * Classifies `n` embeddings, which need no normalisation: gives all logits, the best classes, or both.
 *
 * @param embeds     f32 [n,embedding]
 * @param embedding  e: the length of an embedding; must be the head's, or TB_ERR_MISMATCH
 * @param logits     f32 [n,C]; NULL where they are not wanted
 * @param capacity   floats that `logits` has room for: at least n*C, or TB_ERR_BUFFER_TOO_SMALL
 * @param top        [n,k], room for n*k: the k best classes of each, the best first; NULL where k is 0
 * @param k          at most C
 * @return TB_OK; TB_ERR_MISMATCH; TB_ERR_INVALID_ARGUMENT for a k beyond C, or an embedding that cannot be normalised
 *         because its norm is 0 or not finite; TB_ERR_BUFFER_TOO_SMALL. On failure `logits` and `top` are as they were
 */
tb_status tb_head_classify(const tb_head *head,
                           const float *embeds,
                           size_t n,
                           size_t embedding,
                           float *logits,
                           size_t capacity,
                           tb_score *top,
                           size_t k,
                           tb_error **err);

/**
 * Classifies `n` embeddings by several heads in one call, as tb_head_classify() does by one; each embedding is
 * normalised once. Errors name the place in `heads` of the head that they are of.
 *
 * @param heads      [count]; they all take embeddings of one length. The same head may be there twice
 * @param embeds     f32 [n,embedding]
 * @param embedding  e: the length of an embedding; must be each head's, or TB_ERR_MISMATCH
 * @param logits     f32 [n,C] of the first head, then of the next, and so on; NULL where they are not wanted
 * @param capacity   floats that `logits` has room for: at least n times the sum of all C, or TB_ERR_BUFFER_TOO_SMALL
 * @param top        [count,n,k], room for count*n*k: the k best classes of each head and embedding, the best first. A
 *                   head with fewer classes fills the rest with a class_index of SIZE_MAX and zeros. NULL where k is 0
 * @param k          the best classes that are wanted of each head; may be more than some heads have
 * @return TB_OK; TB_ERR_MISMATCH; TB_ERR_INVALID_ARGUMENT for an embedding that cannot be normalised because its norm
 *         is 0 or not finite; TB_ERR_BUFFER_TOO_SMALL. On failure `logits` and `top` are as they were
 */
tb_status tb_head_classify_many(const tb_head *const *heads,
                                size_t count,
                                const float *embeds,
                                size_t n,
                                size_t embedding,
                                float *logits,
                                size_t capacity,
                                tb_score *top,
                                size_t k,
                                tb_error **err);

/** Frees a head. NULL is fine. */
void tb_head_free(tb_head *head);

/* ---- The task chosen by the image -------------------------------------------------------------------------------- */

/** The image's likeliest task answers. */
#define TB_CHOICE_TASK 1

/** The confidence is below the threshold, and the fallback's weights answer, with the likeliest task's head. */
#define TB_CHOICE_FALLBACK 2

/** The confidence is below the threshold, and nothing answers. */
#define TB_CHOICE_NONE 3

/**
 * What tells by an image alone which of several tasks it belongs to, over the tasks of a basis: a small subspace of
 * the base's features per task, as `taskbasis route` makes it. Shareable between threads.
 */
typedef struct tb_router tb_router;

/** How tb_router_open() opens. */
typedef struct tb_router_options {
    /** sizeof(tb_router_options), set by the caller. */
    size_t struct_size;
    /**
     * The confidence, at most 1, below which the fallback answers; 0: the router's own. A tiny number sends every
     * image to its likeliest task.
     */
    double threshold;
    /**
     * The task expression of the weights that answer below the threshold; `none` for no answer; NULL: the router's
     * own.
     */
    const char *fallback;
} tb_router_options;

/** What a router is. Texts belong to the router. */
typedef struct tb_router_properties {
    /** sizeof(tb_router_properties), set by the caller. */
    size_t struct_size;
    /** The number of tasks. */
    size_t tasks;
    /** e: the length of a feature, which is an embedding of the encoder's; of hidden features 2*width. */
    size_t embedding;
    /** The dimensions of each task's subspace. */
    size_t components;
    /** The confidence below which an image is not sent to its likeliest task. */
    double threshold;
    /** The task expression of the weights that the features are of, `base` as a rule. */
    const char *features;
    /** The task expression of the weights that answer below the threshold; NULL where nothing does. */
    const char *fallback;
    /**
     * 1 where features are no embeddings but hidden features: the class token behind the last norm, before the
     * projection, and the mean of the patches' tokens behind the last block, f32 [2*width]. tb_router_encode() and
     * tb_router_classify() compute them, on the CPU, with the built graph and whole weights. 0 where they are
     * embeddings.
     */
    uint32_t hidden;
    /** 0. */
    uint32_t reserved;
} tb_router_properties;

/** What a router says of one image. This struct never changes, so arrays of it are safe. */
typedef struct tb_route {
    /** The likeliest task: 0 <= task < tasks. */
    size_t task;
    /** The probability of that task among the router's tasks. */
    double probability;
    /**
     * The probability, lowered where the image lies further from the task than all images that the router was made of:
     * what is compared with the threshold.
     */
    double confidence;
    /** What becomes of the image: TB_CHOICE_TASK, TB_CHOICE_FALLBACK or TB_CHOICE_NONE. */
    uint32_t choice;
    /** 0. */
    uint32_t reserved;
} tb_route;

/**
 * Opens a router over the tasks of a basis. Nothing is reconstructed yet; of a base that is in no bundle all weights
 * are read once, as the router has to be of that base.
 *
 * @param path     the file that `taskbasis route` wrote, or a bundle that keeps a router
 * @param options  NULL for the router's own threshold and fallback
 * @param out      set to the new handle, which the caller frees with tb_router_free(); NULL on failure
 * @return TB_OK; TB_ERR_IO; TB_ERR_FORMAT; TB_ERR_UNSUPPORTED for a router of a newer version; TB_ERR_MISMATCH for one
 *         of another base; TB_ERR_NOT_FOUND for a bundle that keeps none; TB_ERR_NOT_FOUND and
 *         TB_ERR_NOT_RECOVERABLE for a task that the basis does not have;
 *         TB_ERR_INVALID_ARGUMENT for a threshold or a fallback that is none
 */
tb_status tb_router_open(const tb_basis *basis,
                         const char *path,
                         const tb_router_options *options,
                         tb_router **out,
                         tb_error **err);

/** Tells what a router is. `info->struct_size` has to be set. */
tb_status tb_router_info(const tb_router *router, tb_router_properties *info, tb_error **err);

/**
 * Sets `*out` to the name of a task of the router's, UTF-8, which belongs to the router.
 *
 * @param index  0 <= index < tasks
 * @return TB_OK; TB_ERR_NOT_FOUND
 */
tb_status tb_router_task_name(const tb_router *router, size_t index, const char **out, tb_error **err);

/**
 * Tells the tasks of `n` images by their features: embeddings of the weights that tb_router_properties.features names,
 * as tb_encoder_encode() gives them, not normalised. Where tb_router_properties.hidden is 1, they are hidden features
 * of those weights. Runs nothing.
 *
 * @param features   f32 [n,embedding]
 * @param embedding  e, or 2*width: the length of a feature; must be the router's, or TB_ERR_MISMATCH
 * @param out        [n], room for n
 * @return TB_OK; TB_ERR_MISMATCH; TB_ERR_INVALID_ARGUMENT for a feature whose norm is 0 or not finite. On failure
 *         `out` is as it was
 */
tb_status tb_router_route(const tb_router *router,
                          const float *features,
                          size_t n,
                          size_t embedding,
                          tb_route *out,
                          tb_error **err);

/**
 * Embeds `n` preprocessed images, each with the weights of the task that it looks like: one run for the features of
 * all, and one for each task that occurs among them. Otherwise as tb_encoder_encode().
 *
 * @param encoder   of the router's base, with the pooling that the router was made with
 * @param pixels    f32 [n,3,S,S], as tb_preprocess() gives them
 * @param out       f32 [n,e]; zeros for an image that nothing answers for
 * @param capacity  floats that `out` has room for: at least n*e, or TB_ERR_BUFFER_TOO_SMALL
 * @param routes    [n], room for n; NULL where they are not wanted
 * @return what tb_encoder_encode() returns; TB_ERR_MISMATCH for an encoder that gives other features, and
 *         TB_ERR_UNSUPPORTED for one that gives no hidden ones where the router takes such. On failure `out` and
 *         `routes` are as they were
 */
tb_status tb_router_encode(const tb_router *router,
                           const tb_encoder *encoder,
                           const float *pixels,
                           size_t n,
                           float *out,
                           size_t capacity,
                           tb_route *routes,
                           tb_error **err);

/**
 * Classifies `n` preprocessed images, each with the weights and the head of the task that it looks like; below the
 * threshold with the fallback's weights and the likeliest task's head.
 *
 * @param heads   [tasks], in the order of the router's tasks
 * @param count   must be the router's number of tasks
 * @param pixels  as in tb_router_encode()
 * @param routes  [n], room for n: whose classes they are
 * @param top     [n,k], room for n*k: the k best classes of each image, the best first. Where there are fewer, or
 *                nothing answers, the rest has a class_index of SIZE_MAX and zeros. NULL where k is 0
 * @param k       the best classes that are wanted of each image
 * @return what tb_router_encode() and tb_head_classify() return; TB_ERR_MISMATCH, with the task, for a head that takes
 *         other embeddings. On failure `routes` and `top` are as they were
 */
tb_status tb_router_classify(const tb_router *router,
                             const tb_encoder *encoder,
                             const tb_head *const *heads,
                             size_t count,
                             const float *pixels,
                             size_t n,
                             tb_route *routes,
                             tb_score *top,
                             size_t k,
                             tb_error **err);

/** Frees a router. NULL is fine. */
void tb_router_free(tb_router *router);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* TASKBASIS_H */
