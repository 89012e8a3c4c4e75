// What C would silently take for something else: texts with a NUL, more classes than there are.
//
//   refused BASIS BASE HEADS CLASSES
#include "taskbasis.hpp"

#include <cstdio>

static int wrong = 0;

static void expect(bool is, const char *what) {
    if (!is) {
        std::fprintf(stderr, "%s\n", what);
        wrong = 1;
    }
}

template <class Result> static void refused(const Result &result, const char *what) {
    expect(!result && result.error().status == TB_ERR_INVALID_ARGUMENT &&
               result.error().message.find("has a NUL") != std::string::npos,
           what);
}

int main(int argc, char **argv) {
    if (argc != 5) {
        return 2;
    }
    const std::string nul("\0x", 2), folder = argv[1], base = argv[2], heads = argv[3], classes = argv[4];
    const auto basis = taskbasis::basis::open(folder, base);
    const auto weights = basis.weights("MNIST");
    refused(basis.try_weights("MNIST" + nul), "an expression");
    refused(basis.try_weights(nul), "an expression that begins with it");
    refused(basis.try_weights_of({{"Parity", 0.5}, {"MNIST" + nul, 0.5}}), "a task");
    refused(basis.try_task_index("MNIST" + nul), "a task's name");
    refused(weights.try_tensor("visual.proj" + nul), "a tensor");
    refused(weights.try_copy_tensor("visual.proj" + nul), "a tensor to copy");
    refused(taskbasis::basis::try_open(folder + nul, base), "a folder");
    refused(taskbasis::basis::try_open(folder, base + nul), "a base");
    refused(taskbasis::head::try_open(heads + nul, "MNIST", classes), "a head's path");
    refused(taskbasis::head::try_open(heads, "MNIST" + nul, classes), "a head's task");
    refused(taskbasis::head::try_open(heads, "MNIST", classes + nul), "class names");
    refused(taskbasis::try_library_info(nul), "an ONNX Runtime");
    for (std::string taskbasis::encoder_options::*text :
         {&taskbasis::encoder_options::provider, &taskbasis::encoder_options::onnxruntime,
          &taskbasis::encoder_options::graph, &taskbasis::encoder_options::map,
          &taskbasis::encoder_options::tensorrt_cache}) {
        taskbasis::encoder_options options;
        options.*text = "cpu" + nul;
        refused(taskbasis::encoder::try_create(basis, options), "an encoder's option");
    }
    try {
        (void)basis.weights("MNIST" + nul);
        expect(false, "no exception");
    } catch (const taskbasis::error &error) {
        expect(error.status() == TB_ERR_INVALID_ARGUMENT, "another status");
    }

    const auto head = taskbasis::head::open(heads, "MNIST", classes);
    const std::vector<float> embedding(64, 0.5F);
    const std::size_t count = head.classes().size();
    const auto all = head.classify(embedding, count);
    expect(all.size() == count && head.classes()[all[0].class_index] == all[0].name, "all classes");
    for (const std::size_t k : {count + 1, static_cast<std::size_t>(-1)}) {
        const auto more = head.try_classify(embedding, k);
        expect(!more && more.error().status == TB_ERR_INVALID_ARGUMENT, "more classes than there are");
    }

    // Several heads in one call give what each of them gives, all of a head's classes where it has fewer.
    const auto parity = taskbasis::head::open(heads, "Parity");
    const std::size_t few = parity.classes().size();
    expect(head.function() == TB_FUNCTION_SOFTMAX && few < count, "a softmax");
    const auto best = taskbasis::head::classify_many({&head, &parity}, embedding, few + 1);
    expect(best.size() == 2 && best[0].size() == few + 1 && best[1].size() == few, "classes of two heads");
    const auto alone = head.classify(embedding, few + 1);
    for (std::size_t i = 0; i < alone.size(); ++i) {
        expect(best[0][i].name == alone[i].name && best[0][i].probability == alone[i].probability, "a head's own");
    }
    expect(best[1][0].class_index == parity.classify(embedding)[0].class_index, "another head's own");
    expect(taskbasis::head::classify_many({}, embedding, 3).empty(), "no heads");
    expect(taskbasis::head::classify_many({&parity}, embedding, static_cast<std::size_t>(-1))[0].size() == few, "all");
    const auto shorter = taskbasis::head::try_classify_many({&head, &parity}, {embedding.data(), 63}, 1);
    expect(!shorter && shorter.error().status == TB_ERR_MISMATCH, "an embedding of another length");
    return wrong;
}
