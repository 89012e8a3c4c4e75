// The C++ face with exceptions turned off: every operation returns a value or what went wrong.
//
//   no_exceptions BASIS BASE TASK
#include "taskbasis.hpp"

#include <cmath>
#include <cstdio>

#ifdef __cpp_exceptions
#error "to be compiled with -fno-exceptions"
#endif

int main(int argc, char **argv) {
    if (argc != 4) {
        return 2;
    }
    const auto missing = taskbasis::basis::try_open("/nonexistent", argv[2]);
    if (missing || missing.error().status != TB_ERR_IO || missing.error().message.empty()) {
        std::fprintf(stderr, "a folder that is not there opened\n");
        return 1;
    }
    auto basis = taskbasis::basis::try_open(argv[1], argv[2]);
    if (!basis) {
        std::fprintf(stderr, "%s\n", basis.error().message.c_str());
        return 1;
    }
    auto encoder = taskbasis::encoder::try_create(*basis);
    auto weights = basis->try_weights(argv[3]);
    if (!encoder || !weights) {
        std::fprintf(stderr, "%s\n", (encoder ? weights.error() : encoder.error()).message.c_str());
        return 1;
    }
    auto side = encoder->try_info();
    if (!side) {
        return 1;
    }
    const std::vector<float> image(3 * side->image_size * side->image_size, 0.5f);
    const auto embedding = encoder->try_encode(*weights, image);
    if (!embedding || (*embedding).size() != encoder->embedding()) {
        return 1;
    }
    const auto length = basis->try_norm(argv[3]);
    const auto square = basis->try_dot(argv[3], argv[3]);
    const auto cosine = basis->try_cosine(argv[3], argv[3]);
    if (!length || !square || !cosine || *length <= 0.0 || *cosine < 1.0 - 1e-12 ||
        std::fabs(*square - *length * *length) > 1e-9 * *square || basis->try_norm(std::string("a\0b", 3))) {
        std::fprintf(stderr, "the length of a task vector is not what it is\n");
        return 1;
    }
    std::printf("%zu\n", (*embedding).size());
    return 0;
}
