// taskbasis for C++17: header only, over the C ABI in taskbasis.h.
//
// Handles are move-only objects that free themselves, in any order. Every operation comes twice: `try_…` returns a
// result that holds a value or an error and throws nothing but std::bad_alloc; without the prefix it returns the value
// and throws taskbasis::error. With exceptions turned off (-fno-exceptions), or TASKBASIS_NO_EXCEPTIONS defined, only
// the former exist. Shapes, units, errors and threads are told in taskbasis.h.
#ifndef TASKBASIS_HPP
#define TASKBASIS_HPP

#include "taskbasis.h"

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#if !defined(TASKBASIS_NO_EXCEPTIONS) && !defined(__cpp_exceptions) && !defined(_CPPUNWIND)
#define TASKBASIS_NO_EXCEPTIONS
#endif
#ifndef TASKBASIS_NO_EXCEPTIONS
#include <stdexcept>
#endif

namespace taskbasis {

using status = tb_status;

// What went wrong: a stable number, and one readable paragraph.
struct failure {
    tb_status status = TB_ERR_INTERNAL;
    std::string message;
};

#ifndef TASKBASIS_NO_EXCEPTIONS
class error : public std::runtime_error {
public:
    explicit error(const failure &what) : std::runtime_error(what.message), status_(what.status) {}
    tb_status status() const noexcept { return status_; }

private:
    tb_status status_;
};
#endif

// A value, or what went wrong.
template <class T> class [[nodiscard]] result {
public:
    using value_type = T;

    result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
    result(failure what) : state_(std::in_place_index<1>, std::move(what)) {}

    explicit operator bool() const noexcept { return state_.index() == 0; }
    // Only where there is a value: checked by the caller, as with a pointer.
    T &operator*() & noexcept { return *std::get_if<0>(&state_); }
    const T &operator*() const & noexcept { return *std::get_if<0>(&state_); }
    T &&operator*() && noexcept { return std::move(*std::get_if<0>(&state_)); }
    T *operator->() noexcept { return std::get_if<0>(&state_); }
    const T *operator->() const noexcept { return std::get_if<0>(&state_); }
    bool has_value() const noexcept { return state_.index() == 0; }
    // Only where there is none.
    const failure &error() const noexcept { return *std::get_if<1>(&state_); }

#ifndef TASKBASIS_NO_EXCEPTIONS
    T value() && {
        if (!*this) {
            throw taskbasis::error(error());
        }
        return std::move(**this);
    }
#endif

private:
    std::variant<T, failure> state_;
};

// Contiguous values that are not owned: what std::span is in C++20.
template <class T> class view {
public:
    using value_type = std::remove_cv_t<T>;

    constexpr view() noexcept = default;
    constexpr view(T *data, std::size_t size) noexcept : data_(data), size_(size) {}
    template <class Container, class = std::enable_if_t<std::is_convertible_v<
                                   decltype(std::declval<Container &>().data()), T *>>>
    constexpr view(Container &&container) noexcept : data_(container.data()), size_(container.size()) {}

    constexpr T *data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }
    constexpr bool empty() const noexcept { return size_ == 0; }
    constexpr T *begin() const noexcept { return data_; }
    constexpr T *end() const noexcept { return data_ + size_; }
    constexpr T &operator[](std::size_t i) const noexcept { return data_[i]; }

private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};

namespace detail {

template <auto Free> struct freer {
    template <class T> void operator()(T *handle) const noexcept { Free(handle); }
};
template <class T, auto Free> using owned = std::unique_ptr<T, freer<Free>>;

inline failure take(tb_status status, tb_error *error) {
    owned<tb_error, tb_error_free> owner(error);
    return failure{status, tb_error_message(error)};
}

// Calls a function of the C ABI, whose last argument is the place for an error.
template <class Function, class... Arguments>
std::optional<failure> call(Function function, Arguments... arguments) {
    tb_error *error = nullptr;
    const tb_status status = function(arguments..., &error);
    if (status == TB_OK) {
        return std::nullopt;
    }
    return take(status, error);
}

template <class T> T sized() noexcept {
    T value{};
    value.struct_size = sizeof(T);
    return value;
}

// An argument of C's.
struct named {
    const char *name;
    const std::string &text;
};

// C's texts end at their first NUL: one that has another in it would be taken for something shorter.
inline std::optional<failure> cut(std::initializer_list<named> texts) {
    for (const named &each : texts) {
        if (each.text.find('\0') != std::string::npos) {
            return failure{TB_ERR_INVALID_ARGUMENT, std::string("`") + each.name + "` has a NUL in it"};
        }
    }
    return std::nullopt;
}

inline const char *or_null(const std::string &text) noexcept { return text.empty() ? nullptr : text.c_str(); }

// Asks for the size with no buffer, then for the values: `fill(out, capacity, &needed)` gives what call() does.
template <class T, class Fill> result<std::vector<T>> filled(Fill fill) {
    std::size_t needed = 0;
    auto asked = fill(static_cast<T *>(nullptr), std::size_t{0}, &needed);
    if (!asked) {
        return std::vector<T>();
    }
    if (asked->status != TB_ERR_BUFFER_TOO_SMALL) {
        return *std::move(asked);
    }
    std::vector<T> values(needed);
    if (auto failed = fill(values.data(), values.size(), &needed)) {
        return *std::move(failed);
    }
    return values;
}

} // namespace detail

// The value of what gives none.
struct none {};

namespace detail {

inline result<none> done(std::optional<failure> failed) {
    if (failed) {
        return *std::move(failed);
    }
    return none{};
}

} // namespace detail

// Whether header and library fit together: the same major version (below 1.0: and minor), and a library that is not
// older.
inline bool compatible() noexcept {
    const std::uint32_t header = TB_VERSION_NUMBER, library = tb_version_number();
    const std::uint32_t unit = TB_VERSION_MAJOR == 0 ? 1000U : 1000000U;
    return header / unit == library / unit && library >= header;
}

// What the library computes with, and the ONNX Runtime that is at `onnxruntime` or, if that is empty, found.
inline result<tb_library_properties> try_library_info(const std::string &onnxruntime = {}) {
    if (auto bad = detail::cut({{"onnxruntime", onnxruntime}})) {
        return *std::move(bad);
    }
    auto info = detail::sized<tb_library_properties>();
    if (auto failed = detail::call(tb_library_info, detail::or_null(onnxruntime), &info)) {
        return *std::move(failed);
    }
    return info;
}

#ifndef TASKBASIS_NO_EXCEPTIONS
inline tb_library_properties library_info(const std::string &onnxruntime = {}) {
    return try_library_info(onnxruntime).value();
}
#endif

// What multiplies the basis vectors, and PCA's mean where there is one.
struct coefficients {
    std::vector<double> vectors;
    double mean = 0.0;
};

// A group of parameters and its coefficients; groups are written as in expressions: `blocks.0-5.attn`, `*`.
struct group {
    std::string name;
    taskbasis::coefficients of;
};

// A task and its scaling coefficient.
struct task {
    std::string name;
    double lambda = 1.0;
};

// A tensor of some weights: f32, row-major. Valid as long as the weights it is of.
struct tensor {
    std::string name;
    view<const float> values;
    view<const std::size_t> shape;
};

class basis;

// The weights of a task expression; reconstructed when first needed.
class weights {
public:
    // Empty after a move, as every call on what was moved from fails with TB_ERR_INVALID_ARGUMENT.
    std::string expression() const {
        const char *text = tb_weights_expression(get());
        return text == nullptr ? "" : text;
    }
    const tb_weights *get() const noexcept { return handle_.get(); }

    result<none> try_prepare() const { return detail::done(detail::call(tb_weights_prepare, get())); }
    result<none> try_prefetch() const { return detail::done(detail::call(tb_weights_prefetch, get())); }

    // Stops what prefetch() started, unless a call waits for it; whether anything was stopped.
    result<bool> try_cancel_prefetch() const {
        std::int32_t stopped = 0;
        if (auto failed = detail::call(tb_weights_cancel_prefetch, get(), &stopped)) {
            return *std::move(failed);
        }
        return stopped != 0;
    }

    result<bool> try_ready() const {
        std::int32_t ready = 0;
        if (auto failed = detail::call(tb_weights_is_ready, get(), &ready)) {
            return *std::move(failed);
        }
        return ready != 0;
    }

    result<taskbasis::coefficients> try_coefficients() const {
        double mean = 0.0;
        auto vectors = detail::filled<double>([&](double *out, std::size_t capacity, std::size_t *needed) {
            return detail::call(tb_weights_coefficients, get(), out, capacity, needed, &mean);
        });
        if (!vectors) {
            return vectors.error();
        }
        return taskbasis::coefficients{*std::move(vectors), mean};
    }

    // Those of one parameter, where they differ between groups.
    result<taskbasis::coefficients> try_coefficients_of(const std::string &parameter) const {
        if (auto bad = detail::cut({{"parameter", parameter}})) {
            return *std::move(bad);
        }
        double mean = 0.0;
        auto vectors = detail::filled<double>([&](double *out, std::size_t capacity, std::size_t *needed) {
            return detail::call(tb_weights_coefficients_of, get(), parameter.c_str(), out, capacity, needed, &mean);
        });
        if (!vectors) {
            return vectors.error();
        }
        return taskbasis::coefficients{*std::move(vectors), mean};
    }

    // A tensor's values as a copy: the handle does not hold on to the weights for it, as it does for views.
    result<std::vector<float>> try_copy_tensor(const std::string &name) const {
        if (auto bad = detail::cut({{"name", name}})) {
            return *std::move(bad);
        }
        return detail::filled<float>([&](float *out, std::size_t capacity, std::size_t *needed) {
            return detail::call(tb_weights_copy_tensor, get(), name.c_str(), out, capacity, needed);
        });
    }

    result<std::size_t> try_tensor_count() const {
        std::size_t count = 0;
        if (auto failed = detail::call(tb_weights_tensor_count, get(), &count)) {
            return *std::move(failed);
        }
        return count;
    }

    result<taskbasis::tensor> try_tensor(const std::string &name) const {
        if (auto bad = detail::cut({{"name", name}})) {
            return *std::move(bad);
        }
        auto raw = detail::sized<tb_tensor>();
        return tensor_of(detail::call(tb_weights_tensor, get(), name.c_str(), &raw), raw);
    }

    result<taskbasis::tensor> try_tensor(std::size_t index) const {
        auto raw = detail::sized<tb_tensor>();
        return tensor_of(detail::call(tb_weights_tensor_at, get(), index, &raw), raw);
    }

#ifndef TASKBASIS_NO_EXCEPTIONS
    void prepare() const { try_prepare().value(); }
    void prefetch() const { try_prefetch().value(); }
    bool cancel_prefetch() const { return try_cancel_prefetch().value(); }
    bool ready() const { return try_ready().value(); }
    taskbasis::coefficients coefficients() const { return try_coefficients().value(); }
    taskbasis::coefficients coefficients_of(const std::string &parameter) const {
        return try_coefficients_of(parameter).value();
    }
    std::vector<float> copy_tensor(const std::string &name) const { return try_copy_tensor(name).value(); }
    std::size_t tensor_count() const { return try_tensor_count().value(); }
    taskbasis::tensor tensor(const std::string &name) const { return try_tensor(name).value(); }
    taskbasis::tensor tensor(std::size_t index) const { return try_tensor(index).value(); }
#endif

private:
    friend class basis;
    explicit weights(tb_weights *handle) noexcept : handle_(handle) {}

    static result<taskbasis::tensor> tensor_of(std::optional<failure> failed, const tb_tensor &raw) {
        if (failed) {
            return *std::move(failed);
        }
        return taskbasis::tensor{raw.name, {raw.data, raw.count}, {raw.shape, raw.rank}};
    }

    detail::owned<tb_weights, tb_weights_free> handle_;
};

// How basis::open() opens; as tb_basis_options.
struct basis_options {
    bool read = false;
    std::uint32_t threads = 0;
    std::uint64_t cache_bytes = 0;
    // A basis whose cache and budget this one is to use too.
    const basis *share_cache = nullptr;
    // Of several image towers in the base's file, what the names of the one, or of its model, begin with.
    std::string base_prefix;
    // The side of the images in pixels, where positions are to be resized for it.
    std::size_t image_size = 0;
};

// A basis over its base, with the cache of reconstructed weights.
class basis {
public:
    // `folder` may be a bundle, which needs no base unless it leaves its own out; or empty: then there is only the
    // base.
    static result<basis> try_open(const std::string &folder, const std::string &base = {}, const basis_options &how = {}) {
        if (auto bad = detail::cut({{"folder", folder}, {"base", base}, {"base_prefix", how.base_prefix}})) {
            return *std::move(bad);
        }
        auto options = detail::sized<tb_basis_options>();
        options.base = detail::or_null(base);
        options.read = how.read;
        options.threads = how.threads;
        options.cache_bytes = how.cache_bytes;
        options.base_prefix = detail::or_null(how.base_prefix);
        options.image_size = how.image_size;
        options.share_cache = how.share_cache == nullptr ? nullptr : how.share_cache->get();
        tb_basis *handle = nullptr;
        if (auto failed = detail::call(tb_basis_open, detail::or_null(folder), &options, &handle)) {
            return *std::move(failed);
        }
        return basis(handle);
    }

    result<tb_basis_properties> try_info() const {
        auto info = detail::sized<tb_basis_properties>();
        if (auto failed = detail::call(tb_basis_info, get(), &info)) {
            return *std::move(failed);
        }
        return info;
    }

    result<std::vector<std::string>> try_tasks() const {
        auto info = try_info();
        if (!info) {
            return info.error();
        }
        std::vector<std::string> names;
        for (std::size_t i = 0; i < info->tasks; ++i) {
            const char *name = nullptr;
            if (auto failed = detail::call(tb_basis_task_name, get(), i, &name)) {
                return *std::move(failed);
            }
            names.emplace_back(name);
        }
        return names;
    }

    result<std::size_t> try_task_index(const std::string &name) const {
        if (auto bad = detail::cut({{"name", name}})) {
            return *std::move(bad);
        }
        std::size_t index = 0;
        if (auto failed = detail::call(tb_basis_task_index, get(), name.c_str(), &index)) {
            return *std::move(failed);
        }
        return index;
    }

    // The recovery table, M rows of T; NaN where a task cannot be recovered.
    result<std::vector<double>> try_coefficients() const {
        return detail::filled<double>([&](double *out, std::size_t capacity, std::size_t *needed) {
            return detail::call(tb_basis_coefficients, get(), out, capacity, needed);
        });
    }

    // The dot product of what two expressions add to the base. The first on a basis reads all of its vectors.
    result<double> try_dot(const std::string &a, const std::string &b) const {
        return product(a, b, [&](double *out) { return detail::call(tb_basis_dot, get(), a.c_str(), b.c_str(), out); });
    }

    // The length of what an expression adds to the base.
    result<double> try_norm(const std::string &a) const {
        return product(a, a, [&](double *out) { return detail::call(tb_basis_norm, get(), a.c_str(), out); });
    }

    // The cosine of the angle between what two expressions add to the base.
    result<double> try_cosine(const std::string &a, const std::string &b) const {
        return product(a, b, [&](double *out) {
            return detail::call(tb_basis_cosine, get(), a.c_str(), b.c_str(), out);
        });
    }

    // The weights of an expression: "MNIST@0.3 + SVHN@0.3 - Cars@0.2".
    result<taskbasis::weights> try_weights(const std::string &expression) const {
        if (auto bad = detail::cut({{"expression", expression}})) {
            return *std::move(bad);
        }
        tb_weights *handle = nullptr;
        if (auto failed = detail::call(tb_weights_create, get(), expression.c_str(), &handle)) {
            return *std::move(failed);
        }
        return taskbasis::weights(handle);
    }

    // Names in braces would make a string of two pointers: name tasks with try_weights_of().
    result<taskbasis::weights> try_weights(std::initializer_list<const char *>) const = delete;

    // The weights of a sum of tasks: try_weights_of({{"MNIST", 0.3}, {"SVHN", 0.3}}).
    result<taskbasis::weights> try_weights_of(const std::vector<task> &tasks) const {
        std::vector<tb_task> raw;
        raw.reserve(tasks.size());
        for (const task &each : tasks) {
            if (auto bad = detail::cut({{"tasks", each.name}})) {
                return *std::move(bad);
            }
            raw.push_back({each.name.c_str(), each.lambda});
        }
        tb_weights *handle = nullptr;
        if (auto failed = detail::call(tb_weights_create_from_tasks, get(), raw.data(), raw.size(), &handle)) {
            return *std::move(failed);
        }
        return taskbasis::weights(handle);
    }

    result<taskbasis::weights> try_weights_from(const taskbasis::coefficients &of) const {
        tb_weights *handle = nullptr;
        if (auto failed = detail::call(tb_weights_create_from_coefficients, get(), of.vectors.data(),
                                       of.vectors.size(), of.mean, &handle)) {
            return *std::move(failed);
        }
        return taskbasis::weights(handle);
    }

    // The weights in which each group of parameters has coefficients of its own.
    result<taskbasis::weights> try_weights_from(const std::vector<group> &groups) const {
        std::vector<const char *> names;
        std::vector<double> rows, means;
        const std::size_t vectors = groups.empty() ? 0 : groups.front().of.vectors.size();
        for (const group &each : groups) {
            if (auto bad = detail::cut({{"groups", each.name}})) {
                return *std::move(bad);
            }
            if (each.of.vectors.size() != vectors) {
                return failure{TB_ERR_INVALID_ARGUMENT, "the groups have different numbers of coefficients"};
            }
            names.push_back(each.name.c_str());
            rows.insert(rows.end(), each.of.vectors.begin(), each.of.vectors.end());
            means.push_back(each.of.mean);
        }
        tb_weights *handle = nullptr;
        if (auto failed = detail::call(tb_weights_create_grouped, get(), names.data(), names.size(), rows.data(),
                                       vectors, means.data(), &handle)) {
            return *std::move(failed);
        }
        return taskbasis::weights(handle);
    }

    // The groups of a ready grouping: whole, kind, block, layer or parameter.
    result<std::vector<std::string>> try_groups(const std::string &grouping) const {
        if (auto bad = detail::cut({{"grouping", grouping}})) {
            return *std::move(bad);
        }
        std::size_t count = 0;
        if (auto failed = detail::call(tb_basis_group_count, get(), grouping.c_str(), &count)) {
            return *std::move(failed);
        }
        std::vector<std::string> groups;
        for (std::size_t i = 0; i < count; ++i) {
            auto text = detail::filled<char>([&](char *out, std::size_t capacity, std::size_t *needed) {
                return detail::call(tb_basis_group, get(), grouping.c_str(), i, out, capacity, needed);
            });
            if (!text) {
                return text.error();
            }
            groups.emplace_back((*text).data());
        }
        return groups;
    }

    result<none> try_verify() const { return detail::done(detail::call(tb_basis_verify, get())); }
    result<none> try_set_cache_budget(std::uint64_t bytes) const {
        return detail::done(detail::call(tb_cache_set_budget, get(), bytes));
    }
    result<none> try_trim_cache(std::uint64_t bytes) const {
        return detail::done(detail::call(tb_cache_trim, get(), bytes));
    }
    result<tb_cache_statistics> try_cache_stats() const {
        auto stats = detail::sized<tb_cache_statistics>();
        if (auto failed = detail::call(tb_cache_stats, get(), &stats)) {
            return *std::move(failed);
        }
        return stats;
    }

    const tb_basis *get() const noexcept { return handle_.get(); }

#ifndef TASKBASIS_NO_EXCEPTIONS
    static basis open(const std::string &folder, const std::string &base = {}, const basis_options &how = {}) {
        return try_open(folder, base, how).value();
    }
    tb_basis_properties info() const { return try_info().value(); }
    std::vector<std::string> tasks() const { return try_tasks().value(); }
    std::size_t task_index(const std::string &name) const { return try_task_index(name).value(); }
    std::vector<double> coefficients() const { return try_coefficients().value(); }
    double dot(const std::string &a, const std::string &b) const { return try_dot(a, b).value(); }
    double norm(const std::string &a) const { return try_norm(a).value(); }
    double cosine(const std::string &a, const std::string &b) const { return try_cosine(a, b).value(); }
    taskbasis::weights weights(const std::string &expression) const { return try_weights(expression).value(); }
    taskbasis::weights weights(std::initializer_list<const char *>) const = delete;
    taskbasis::weights weights_of(const std::vector<task> &tasks) const { return try_weights_of(tasks).value(); }
    taskbasis::weights weights_from(const taskbasis::coefficients &of) const { return try_weights_from(of).value(); }
    taskbasis::weights weights_from(const std::vector<group> &groups) const { return try_weights_from(groups).value(); }
    std::vector<std::string> groups(const std::string &grouping) const { return try_groups(grouping).value(); }
    void verify() const { try_verify().value(); }
    void set_cache_budget(std::uint64_t bytes) const { try_set_cache_budget(bytes).value(); }
    void trim_cache(std::uint64_t bytes) const { try_trim_cache(bytes).value(); }
    tb_cache_statistics cache_stats() const { return try_cache_stats().value(); }
#endif

private:
    explicit basis(tb_basis *handle) noexcept : handle_(handle) {}

    template <class Compute>
    static result<double> product(const std::string &a, const std::string &b, const Compute &compute) {
        if (auto bad = detail::cut({{"a", a}, {"b", b}})) {
            return *std::move(bad);
        }
        double out = 0.0;
        if (auto failed = compute(&out)) {
            return *std::move(failed);
        }
        return out;
    }

    detail::owned<tb_basis, tb_basis_free> handle_;
};

// How encoder::create() sets up; as tb_encoder_options.
struct encoder_options {
    std::string provider;
    std::uint32_t device = 0;
    std::uint32_t threads = 0;
    std::uint32_t concurrency = 0;
    std::uint32_t activation = TB_ACTIVATION_QUICK_GELU;
    std::uint32_t heads = 0;
    std::uint32_t image_size = 0;
    std::uint32_t log_level = 0;
    bool built_graph = false;
    std::string onnxruntime;
    std::uint32_t promotion = TB_PROMOTION_AUTO;
    std::uint32_t promote_after = 0;
    std::string graph;
    std::string map;
    std::string tensorrt_cache;
    bool tensorrt_fp16 = false;
    float tensorrt_min_cosine = 0;
    std::uint64_t device_budget = 0;
    std::uint32_t weights_on = TB_WEIGHTS_ON_AUTO;
    bool cuda_graphs = false;
    bool streamed = false; // the older name of TB_RESIDENCY_BLOCKWISE
    float norm_epsilon = 0;
    std::uint32_t pooling = TB_POOLING_AS_READ;
    std::string config;
    std::vector<float> image_mean; // none, or three
    std::vector<float> image_std;  // none, or three
    std::uint32_t resize = TB_RESIZE_AS_READ;
    std::uint32_t interpolation = TB_INTERPOLATION_AS_READ;
    std::size_t resize_edge = 0;
    std::uint32_t self_test = TB_SELF_TEST_AUTO;
    std::uint32_t residency = TB_RESIDENCY_WHOLE;
    std::uint32_t precision = TB_PRECISION_F32;
};

// The image encoder of one architecture; every call names its weights.
class encoder {
public:
    static result<encoder> try_create(const basis &of, const encoder_options &how = {}) {
        if (auto bad = detail::cut({{"provider", how.provider},
                                    {"onnxruntime", how.onnxruntime},
                                    {"graph", how.graph},
                                    {"map", how.map},
                                    {"tensorrt_cache", how.tensorrt_cache},
                                    {"config", how.config}})) {
            return *std::move(bad);
        }
        const auto is_per_channel = [](const std::vector<float> &of) { return of.empty() || of.size() == 3; };
        if (!is_per_channel(how.image_mean) || !is_per_channel(how.image_std)) {
            return failure{TB_ERR_INVALID_ARGUMENT, "image_mean and image_std are three numbers each, or none"};
        }
        auto options = detail::sized<tb_encoder_options>();
        options.provider = detail::or_null(how.provider);
        options.device = how.device;
        options.threads = how.threads;
        options.concurrency = how.concurrency;
        options.activation = how.activation;
        options.heads = how.heads;
        options.image_size = how.image_size;
        options.log_level = how.log_level;
        options.built_graph = how.built_graph ? 1 : 0;
        options.onnxruntime = detail::or_null(how.onnxruntime);
        options.promotion = how.promotion;
        options.promote_after = how.promote_after;
        options.graph = detail::or_null(how.graph);
        options.map = detail::or_null(how.map);
        options.tensorrt_cache = detail::or_null(how.tensorrt_cache);
        options.tensorrt_fp16 = how.tensorrt_fp16 ? 1 : 0;
        options.tensorrt_min_cosine = how.tensorrt_min_cosine;
        options.device_budget = how.device_budget;
        options.weights_on = how.weights_on;
        options.cuda_graphs = how.cuda_graphs ? 1 : 0;
        options.streamed = how.streamed ? 1 : 0;
        options.norm_epsilon = how.norm_epsilon;
        options.pooling = how.pooling;
        options.config = detail::or_null(how.config);
        options.mean = how.image_mean.empty() ? nullptr : how.image_mean.data();
        options.std = how.image_std.empty() ? nullptr : how.image_std.data();
        options.resize = how.resize;
        options.interpolation = how.interpolation;
        options.resize_edge = how.resize_edge;
        options.self_test = how.self_test;
        options.residency = how.residency;
        options.precision = how.precision;
        tb_encoder *handle = nullptr;
        if (auto failed = detail::call(tb_encoder_create, of.get(), &options, &handle)) {
            return *std::move(failed);
        }
        encoder made(handle);
        auto info = made.try_info();
        if (!info) {
            return info.error();
        }
        made.embedding_ = info->embedding;
        made.image_size_ = info->image_size;
        return made;
    }

    result<tb_encoder_properties> try_info() const {
        auto info = detail::sized<tb_encoder_properties>();
        if (auto failed = detail::call(tb_encoder_info, get(), &info)) {
            return *std::move(failed);
        }
        return info;
    }

    // Embeddings [n,e] of the preprocessed images [n,3,S,S].
    result<std::vector<float>> try_encode(const weights &with, view<const float> pixels) const {
        const std::size_t image = 3 * image_size_ * image_size_;
        if (image == 0 || pixels.size() % image != 0) {
            return failure{TB_ERR_INVALID_ARGUMENT, "the pixels are not whole images of 3*S*S values"};
        }
        const std::size_t n = pixels.size() / image;
        std::vector<float> out(n * embedding_);
        if (auto failed =
                detail::call(tb_encoder_encode, get(), with.get(), pixels.data(), n, out.data(), out.size())) {
            return *std::move(failed);
        }
        return out;
    }

    // One decoded image as this encoder takes it, f32 [3,S,S]: with its model's mean, deviation and resizing.
    result<std::vector<float>> try_preprocess(const tb_image &image) const {
        return detail::filled<float>([&](float *out, std::size_t capacity, std::size_t *needed) {
            return detail::call(tb_encoder_preprocess, get(), &image, out, capacity, needed);
        });
    }

    // The same of decoded images, preprocessing included.
    result<std::vector<float>> try_encode(const weights &with, view<const tb_image> images) const {
        std::vector<float> out(images.size() * embedding_);
        if (auto failed = detail::call(tb_encoder_encode_images, get(), with.get(), images.data(), images.size(),
                                       out.data(), out.size())) {
            return *std::move(failed);
        }
        return out;
    }

    // Of images that are listed in the call: encode(weights, {image}).
    result<std::vector<float>> try_encode(const weights &with, std::initializer_list<tb_image> images) const {
        return try_encode(with, view<const tb_image>(images.begin(), images.size()));
    }

    // Reconstructs these weights where this encoder reads them, unless they are there.
    result<none> try_prepare(const weights &what) const {
        return detail::done(detail::call(tb_encoder_prepare, get(), what.get()));
    }

    // Whether the next call with them need not reconstruct them.
    result<bool> try_is_prepared(const weights &what) const {
        std::int32_t is = 0;
        if (auto failed = detail::call(tb_encoder_is_prepared, get(), what.get(), &is)) {
            return *std::move(failed);
        }
        return is != 0;
    }

    // What a basis takes on this encoder's device.
    result<tb_device_statistics> try_device_stats(const basis &of) const {
        auto stats = detail::sized<tb_device_statistics>();
        if (auto failed = detail::call(tb_encoder_device_stats, get(), of.get(), &stats)) {
            return *std::move(failed);
        }
        return stats;
    }

    // Gives these weights a session of their own, and waits for it or not.
    result<none> try_promote(const weights &what, bool wait = true) const {
        return detail::done(detail::call(tb_encoder_promote, get(), what.get(), wait ? 1 : 0));
    }

    result<none> try_demote(const weights &what) const {
        return detail::done(detail::call(tb_encoder_demote, get(), what.get()));
    }

    // One of the TB_PROMOTION_STATE_ constants.
    result<std::int32_t> try_promotion(const weights &what) const {
        std::int32_t state = 0;
        if (auto failed = detail::call(tb_encoder_promotion, get(), what.get(), &state)) {
            return *std::move(failed);
        }
        return state;
    }

    // Closes the sessions that no call is using.
    result<none> try_trim() const { return detail::done(detail::call(tb_encoder_trim, get())); }

    // e, the length of an embedding.
    std::size_t embedding() const noexcept { return embedding_; }
    // S, the side of a preprocessed image.
    std::size_t image_size() const noexcept { return image_size_; }
    const tb_encoder *get() const noexcept { return handle_.get(); }

#ifndef TASKBASIS_NO_EXCEPTIONS
    explicit encoder(const basis &of, const encoder_options &how = {}) : encoder(try_create(of, how).value()) {}
    tb_encoder_properties info() const { return try_info().value(); }
    std::vector<float> preprocess(const tb_image &image) const { return try_preprocess(image).value(); }
    void trim() const { try_trim().value(); }
    void prepare(const weights &what) const { try_prepare(what).value(); }
    bool is_prepared(const weights &what) const { return try_is_prepared(what).value(); }
    tb_device_statistics device_stats(const basis &of) const { return try_device_stats(of).value(); }
    void promote(const weights &what, bool wait = true) const { try_promote(what, wait).value(); }
    void demote(const weights &what) const { try_demote(what).value(); }
    std::int32_t promotion(const weights &what) const { return try_promotion(what).value(); }
    std::vector<float> encode(const weights &with, view<const float> pixels) const {
        return try_encode(with, pixels).value();
    }
    std::vector<float> encode(const weights &with, view<const tb_image> images) const {
        return try_encode(with, images).value();
    }
    std::vector<float> encode(const weights &with, std::initializer_list<tb_image> images) const {
        return try_encode(with, images).value();
    }
#endif

private:
    explicit encoder(tb_encoder *handle) noexcept : handle_(handle) {}
    detail::owned<tb_encoder, tb_encoder_free> handle_;
    std::size_t embedding_ = 0;
    std::size_t image_size_ = 0;
};

// One class and how likely it is.
struct score {
    std::string name;
    std::size_t class_index = 0;
    float probability = 0;
    float logit = 0;
};

// The classification head of a task.
class head {
public:
    // `classes` is a JSON file of class names; empty for numbers.
    static result<head> try_open(const std::string &path, const std::string &task, const std::string &classes = {}) {
        if (auto bad = detail::cut({{"path", path}, {"task", task}, {"classes", classes}})) {
            return *std::move(bad);
        }
        tb_head *handle = nullptr;
        if (auto failed = detail::call(tb_head_open, path.c_str(), detail::or_null(task), detail::or_null(classes),
                                       &handle)) {
            return *std::move(failed);
        }
        return head(handle);
    }

    result<std::vector<std::string>> try_classes() const {
        std::size_t count = 0;
        if (auto failed = detail::call(tb_head_classes, get(), &count)) {
            return *std::move(failed);
        }
        std::vector<std::string> names;
        for (std::size_t i = 0; i < count; ++i) {
            const char *name = nullptr;
            if (auto failed = detail::call(tb_head_class_name, get(), i, &name)) {
                return *std::move(failed);
            }
            names.emplace_back(name);
        }
        return names;
    }

    // The logits of embeddings [n,e], as [n,C].
    result<std::vector<float>> try_logits(view<const float> embeddings, std::size_t embedding) const {
        std::size_t count = 0;
        if (auto failed = detail::call(tb_head_classes, get(), &count)) {
            return *std::move(failed);
        }
        if (embedding == 0 || embeddings.size() % embedding != 0) {
            return failure{TB_ERR_INVALID_ARGUMENT, "these are not whole embeddings of that length"};
        }
        const std::size_t n = embeddings.size() / embedding;
        std::vector<float> logits(n * count);
        if (auto failed = detail::call(tb_head_classify, get(), embeddings.data(), n, embedding, logits.data(),
                                       logits.size(), static_cast<tb_score *>(nullptr), std::size_t{0})) {
            return *std::move(failed);
        }
        return logits;
    }

    // The k best classes of one embedding, the best first; k is at most the number of classes.
    result<std::vector<score>> try_classify(view<const float> embedding, std::size_t k) const {
        std::size_t count = 0;
        if (auto failed = detail::call(tb_head_classes, get(), &count)) {
            return *std::move(failed);
        }
        // A larger k is refused before anything is written.
        std::vector<tb_score> raw(k < count ? k : count);
        if (auto failed = detail::call(tb_head_classify, get(), embedding.data(), std::size_t{1}, embedding.size(),
                                       static_cast<float *>(nullptr), std::size_t{0}, raw.data(), k)) {
            return *std::move(failed);
        }
        return named(raw.data(), raw.size());
    }

    // The k best classes of one embedding by each of these heads, in one call; all of a head's where it has fewer.
    static result<std::vector<std::vector<score>>> try_classify_many(const std::vector<const head *> &heads,
                                                                     view<const float> embedding, std::size_t k) {
        std::vector<const tb_head *> handles;
        std::size_t most = 0;
        for (const head *each : heads) {
            std::size_t count = 0;
            if (auto failed = detail::call(tb_head_classes, each->get(), &count)) {
                return *std::move(failed);
            }
            most = most < count ? count : most;
            handles.push_back(each->get());
        }
        k = k < most ? k : most;
        std::vector<tb_score> raw(handles.size() * k);
        if (auto failed = detail::call(tb_head_classify_many, handles.data(), handles.size(), embedding.data(),
                                       std::size_t{1}, embedding.size(), static_cast<float *>(nullptr),
                                       std::size_t{0}, raw.data(), k)) {
            return *std::move(failed);
        }
        std::vector<std::vector<score>> best;
        for (std::size_t i = 0; i < heads.size(); ++i) {
            auto of_head = heads[i]->named(raw.data() + i * k, k);
            if (!of_head) {
                return of_head.error();
            }
            best.push_back(*std::move(of_head));
        }
        return best;
    }

    // How probabilities are made of logits: TB_FUNCTION_SOFTMAX or TB_FUNCTION_SIGMOID.
    result<std::uint32_t> try_function() const {
        std::uint32_t function = 0;
        if (auto failed = detail::call(tb_head_function, get(), &function)) {
            return *std::move(failed);
        }
        return function;
    }

    const tb_head *get() const noexcept { return handle_.get(); }

#ifndef TASKBASIS_NO_EXCEPTIONS
    static head open(const std::string &path, const std::string &task, const std::string &classes = {}) {
        return try_open(path, task, classes).value();
    }
    std::vector<std::string> classes() const { return try_classes().value(); }
    std::vector<float> logits(view<const float> embeddings, std::size_t embedding) const {
        return try_logits(embeddings, embedding).value();
    }
    std::vector<score> classify(view<const float> embedding, std::size_t k = 1) const {
        return try_classify(embedding, k).value();
    }
    static std::vector<std::vector<score>> classify_many(const std::vector<const head *> &heads,
                                                         view<const float> embedding, std::size_t k = 1) {
        return try_classify_many(heads, embedding, k).value();
    }
    std::uint32_t function() const { return try_function().value(); }
#endif

private:
    // The scores with the names of their classes; none after the last class.
    result<std::vector<score>> named(const tb_score *raw, std::size_t count) const {
        std::vector<score> best;
        best.reserve(count);
        for (std::size_t i = 0; i < count && raw[i].class_index != SIZE_MAX; ++i) {
            const char *name = nullptr;
            if (auto failed = detail::call(tb_head_class_name, get(), raw[i].class_index, &name)) {
                return *std::move(failed);
            }
            best.push_back({name, raw[i].class_index, raw[i].probability, raw[i].logit});
        }
        return best;
    }

    explicit head(tb_head *handle) noexcept : handle_(handle) {}
    detail::owned<tb_head, tb_head_free> handle_;
};

// How router::open() opens; as tb_router_options.
struct router_options {
    // 0: the router's own.
    double threshold = 0;
    // A task expression, or "none"; empty: the router's own.
    std::string fallback;
};

// What a router says of one image.
struct route {
    std::string task;
    std::size_t task_index = 0;
    double probability = 0;
    double confidence = 0;
    // TB_CHOICE_TASK, TB_CHOICE_FALLBACK or TB_CHOICE_NONE.
    std::uint32_t choice = 0;
};

// Images with the tasks that they look like, and their embeddings [n,e]: zeros where nothing answers.
struct routed {
    std::vector<route> routes;
    std::vector<float> embeddings;
};

// What tells the task of an image by the image, over the tasks of a basis.
class router {
public:
    static result<router> try_open(const basis &of, const std::string &path, const router_options &how = {}) {
        if (auto bad = detail::cut({{"path", path}, {"fallback", how.fallback}})) {
            return *std::move(bad);
        }
        auto options = detail::sized<tb_router_options>();
        options.threshold = how.threshold;
        options.fallback = detail::or_null(how.fallback);
        tb_router *handle = nullptr;
        if (auto failed = detail::call(tb_router_open, of.get(), path.c_str(), &options, &handle)) {
            return *std::move(failed);
        }
        router opened(handle);
        auto info = opened.try_info();
        if (!info) {
            return info.error();
        }
        for (std::size_t i = 0; i < info->tasks; ++i) {
            const char *name = nullptr;
            if (auto failed = detail::call(tb_router_task_name, opened.get(), i, &name)) {
                return *std::move(failed);
            }
            opened.tasks_.emplace_back(name);
        }
        return opened;
    }

    result<tb_router_properties> try_info() const {
        auto info = detail::sized<tb_router_properties>();
        if (auto failed = detail::call(tb_router_info, get(), &info)) {
            return *std::move(failed);
        }
        return info;
    }

    // The tasks, in the router's order.
    const std::vector<std::string> &tasks() const noexcept { return tasks_; }

    // The tasks of images by their features [n,e], embeddings of the base or what info() says. Runs nothing.
    result<std::vector<taskbasis::route>> try_route(view<const float> features) const {
        auto info = try_info();
        if (!info) {
            return info.error();
        }
        if (features.size() % info->embedding != 0) {
            return failure{TB_ERR_INVALID_ARGUMENT, "these are not whole features of that length"};
        }
        std::vector<tb_route> raw(features.size() / info->embedding);
        if (auto failed =
                detail::call(tb_router_route, get(), features.data(), raw.size(), info->embedding, raw.data())) {
            return *std::move(failed);
        }
        return named(raw);
    }

    // Preprocessed images [n,3,S,S], each embedded with the weights of the task that it looks like.
    result<routed> try_encode(const encoder &with, view<const float> pixels) const {
        auto info = with.try_info();
        if (!info) {
            return info.error();
        }
        const std::size_t image = 3 * info->image_size * info->image_size;
        if (image == 0 || pixels.size() % image != 0) {
            return failure{TB_ERR_INVALID_ARGUMENT, "the pixels are not whole images of 3*S*S values"};
        }
        std::vector<tb_route> raw(pixels.size() / image);
        std::vector<float> out(raw.size() * info->embedding);
        if (auto failed = detail::call(tb_router_encode, get(), with.get(), pixels.data(), raw.size(), out.data(),
                                       out.size(), raw.data())) {
            return *std::move(failed);
        }
        return routed{named(raw), std::move(out)};
    }

    const tb_router *get() const noexcept { return handle_.get(); }

#ifndef TASKBASIS_NO_EXCEPTIONS
    static router open(const basis &of, const std::string &path, const router_options &how = {}) {
        return try_open(of, path, how).value();
    }
    tb_router_properties info() const { return try_info().value(); }
    std::vector<taskbasis::route> route(view<const float> features) const { return try_route(features).value(); }
    routed encode(const encoder &with, view<const float> pixels) const { return try_encode(with, pixels).value(); }
#endif

private:
    std::vector<taskbasis::route> named(const std::vector<tb_route> &raw) const {
        std::vector<taskbasis::route> routes;
        routes.reserve(raw.size());
        for (const tb_route &each : raw) {
            routes.push_back({tasks_[each.task], each.task, each.probability, each.confidence, each.choice});
        }
        return routes;
    }

    explicit router(tb_router *handle) noexcept : handle_(handle) {}
    detail::owned<tb_router, tb_router_free> handle_;
    std::vector<std::string> tasks_;
};

// Decoded pixels as the encoder takes them: f32 [3,size,size].
inline result<std::vector<float>> try_preprocess(const tb_image &image, std::size_t size) {
    return detail::filled<float>([&](float *out, std::size_t capacity, std::size_t *needed) {
        return detail::call(tb_preprocess, &image, size, out, capacity, needed);
    });
}

#ifndef TASKBASIS_NO_EXCEPTIONS
inline std::vector<float> preprocess(const tb_image &image, std::size_t size) {
    return try_preprocess(image, size).value();
}
#endif

} // namespace taskbasis

#endif // TASKBASIS_HPP
