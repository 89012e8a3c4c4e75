/* gcc's ThreadSanitizer runtime lacks three functions that LLVM, and so Rust, calls. The runtime intercepts the plain
 * ones, so what they read and write is still seen. Linked in where the runtime needs it; not instrumented itself. */
#include <string.h>

void *__tsan_memcpy(void *to, const void *from, size_t n);
void *__tsan_memmove(void *to, const void *from, size_t n);
void *__tsan_memset(void *to, int value, size_t n);

void *__tsan_memcpy(void *to, const void *from, size_t n) { return memcpy(to, from, n); }
void *__tsan_memmove(void *to, const void *from, size_t n) { return memmove(to, from, n); }
void *__tsan_memset(void *to, int value, size_t n) { return memset(to, value, n); }
