// Tells which class of a task an image belongs to, with the weights of that task.
//
//   quickstart BASIS BASE HEADS CLASSES TASK
//
// The image is made here: a bright stroke on black, 28×28, gray.
#include "taskbasis.hpp"

#include <cstdio>
#include <exception>

// [quickstart] README shows what stands between these marks.
static void classify(const char *folder, const char *base, const char *heads, const char *classes, const char *task,
                     const tb_image &image) {
    const auto basis = taskbasis::basis::open(folder, base);
    const taskbasis::encoder encoder(basis);
    const auto head = taskbasis::head::open(heads, task, classes);

    const auto weights = basis.weights(task); // or "MNIST@0.3 + Parity@0.3": any arithmetic of tasks
    const auto embedding = encoder.encode(weights, {image});
    for (const auto &best : head.classify(embedding, 2)) {
        std::printf("%-10s %5.1f %%\n", best.name.c_str(), 100.0 * static_cast<double>(best.probability));
    }
}
// [/quickstart]

int main(int argc, char **argv) {
    if (argc != 6) {
        std::fprintf(stderr, "usage: %s BASIS BASE HEADS CLASSES TASK\n", argv[0]);
        return 2;
    }
    std::vector<std::uint8_t> stroke(28 * 28);
    for (std::size_t y = 4; y < 24; ++y) {
        stroke[y * 28 + 13] = stroke[y * 28 + 14] = 255;
    }
    const tb_image image{stroke.data(), 28, 28, 0, TB_PIXELS_GRAY8};
    try {
        classify(argv[1], argv[2], argv[3], argv[4], argv[5], image);
    } catch (const taskbasis::error &error) {
        std::fprintf(stderr, "%s: %s\n", tb_status_name(error.status()), error.what());
        return 1;
    } catch (const std::exception &error) { // no memory for a result
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
        std::perror("stdout");
        return 1;
    }
    return 0;
}
