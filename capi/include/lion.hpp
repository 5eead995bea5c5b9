/// The Lion optimizer for C++17: lion.h with RAII, exceptions and types. It needs no library but the C one.
///
///     lion::Optimizer optimizer(lion::Options().learning_rate(0.01).json(R"({"global_clipnorm": 1})"));
///     const lion::Variable weights = optimizer.add("weights", {2, 3}, LION_F32);
///     std::vector<float> parameter(6), gradient(6);
///     optimizer.apply({lion::update(weights, parameter, gradient)});
///
/// A call that fails throws lion::Error, and has done nothing unless lion.h says otherwise. An optimizer can be moved but not
/// copied, and its destructor frees it. One thread at a time may use it.

#ifndef LION_HPP
#define LION_HPP

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "lion.h"

namespace lion {

/// Why a call failed: the library's message, and its status.
class Error : public std::runtime_error {
public:
    Error(LionStatus status, const char *message) : std::runtime_error(message), status_(status) {}

    /// One of LION_ERROR_...
    LionStatus status() const noexcept { return status_; }

private:
    LionStatus status_;
};

/// Throws if a call failed.
inline void check(LionStatus status) {
    if (status != LION_OK)
        throw Error(status, lion_last_error());
}

/// The storage of an IEEE binary16.
struct f16 {
    std::uint16_t bits;
};

/// The storage of a bfloat16.
struct bf16 {
    std::uint16_t bits;
};

/// The dtype of an element type: dtype_of<float> is LION_F32.
template <typename T> inline constexpr std::uint32_t dtype_of = 0;
template <> inline constexpr std::uint32_t dtype_of<float> = LION_F32;
template <> inline constexpr std::uint32_t dtype_of<f16> = LION_F16;
template <> inline constexpr std::uint32_t dtype_of<bf16> = LION_BF16;

using Variable = LionVariable;
using Group = LionGroup;

/// Options of an optimizer. They keep their texts.
class Options {
public:
    Options() { check(lion_options_init(&options_, sizeof options_)); }

    Options &learning_rate(double value) { return options_.learning_rate = value, *this; }
    Options &beta_1(double value) { return options_.beta_1 = value, *this; }
    Options &beta_2(double value) { return options_.beta_2 = value, *this; }
    Options &weight_decay(double value) { return options_.weight_decay = value, *this; }
    /// All other options, by name, as a JSON object.
    Options &json(std::string text) { return json_ = std::move(text), has_json_ = true, *this; }
    /// How work is split and where it runs; a text in the plan must outlive the options.
    Options &plan(LionPlan plan) {
        plan.struct_size = sizeof plan;
        return plan_ = plan, has_plan_ = true, *this;
    }

    /// The options for C, valid until this object changes or ends.
    LionOptions get() const noexcept {
        LionOptions options = options_;
        options.json = has_json_ ? json_.c_str() : nullptr;
        options.plan = has_plan_ ? &plan_ : nullptr;
        return options;
    }

private:
    LionOptions options_{};
    std::string json_;
    LionPlan plan_{};
    bool has_json_ = false;
    bool has_plan_ = false;
};

/// A variable's parameter and gradient, as pointers and a length.
template <typename P, typename G>
LionUpdate update(Variable variable, P *parameter, const G *gradient, std::size_t len) {
    static_assert(dtype_of<P> != 0 && dtype_of<G> != 0, "elements are float, lion::f16 or lion::bf16");
    LionUpdate made{};
    made.struct_size = sizeof made;
    made.variable = variable;
    made.parameter = parameter;
    made.gradient = gradient;
    made.len = len;
    made.parameter_dtype = dtype_of<P>;
    made.gradient_dtype = dtype_of<G>;
    return made;
}

/// A variable's parameter and gradient, as containers of contiguous elements. Throws if their lengths differ.
template <typename P, typename G> LionUpdate update(Variable variable, P &parameter, const G &gradient) {
    if (parameter.size() != gradient.size())
        throw Error(LION_ERROR_TENSOR, "a parameter and its gradient have different lengths");
    return update(variable, parameter.data(), gradient.data(), parameter.size());
}

/// A variable without a gradient in this call; also a parameter to save or to load.
template <typename P> LionUpdate without_gradient(Variable variable, P &parameter) {
    using Element = typename P::value_type;
    return update(variable, parameter.data(), static_cast<const Element *>(nullptr), parameter.size());
}

/// The update for a range of the variable's elements.
inline LionUpdate range(LionUpdate update, std::size_t start, std::size_t end) {
    update.range_start = start;
    update.range_end = end;
    return update;
}

/// The update with a copy of the stored parameter after the call, in any dtype.
template <typename C> LionUpdate copy_to(LionUpdate update, C &copy) {
    if (copy.size() != update.len)
        throw Error(LION_ERROR_TENSOR, "a parameter and its copy have different lengths");
    update.copy = copy.data();
    update.copy_dtype = dtype_of<typename C::value_type>;
    return update;
}

/// An optimizer.
class Optimizer {
public:
    /// Runs a worker: work(0), work(1), … once each, on any threads, and returns when all have returned.
    using Work = std::function<void(std::size_t)>;
    using ParallelFor = std::function<void(std::size_t workers, const Work &work)>;
    using Updates = std::initializer_list<LionUpdate>;

    /// An optimizer with Keras's defaults.
    Optimizer() : Optimizer(Options()) {}

    explicit Optimizer(const Options &options) {
        const LionOptions given = options.get();
        LionOptimizer *made = nullptr;
        check(lion_new(&given, &made));
        handle_.reset(made);
    }

    /// From Keras's JSON.
    static Optimizer from_config(const std::string &json) {
        LionOptimizer *made = nullptr;
        check(lion_new_from_config(json.c_str(), &made));
        return Optimizer(made);
    }

    /// The C optimizer, for functions that this class lacks. This object still owns it.
    LionOptimizer *get() const noexcept { return handle_.get(); }

    /// Adds a variable.
    Variable add(const std::string &name, const std::vector<std::size_t> &shape, std::uint32_t dtype,
                 LionVariableOptions options = {}) {
        options.struct_size = sizeof options;
        Variable made = 0;
        check(lion_register(get(), name.c_str(), shape.data(), shape.size(), dtype, &options, &made));
        return made;
    }

    /// Adds a group of hyperparameters, as a JSON object of those that differ, for LionVariableOptions.
    Group add_group(const std::string &json) {
        Group made = 0;
        check(lion_add_group(get(), json.c_str(), &made));
        return made;
    }
    void set_group(Group group, const std::string &json) { check(lion_set_group(get(), group, json.c_str())); }

    /// Applies gradients: a whole step.
    void apply(Updates updates) { apply(updates.begin(), updates.size()); }
    void apply(const std::vector<LionUpdate> &updates) { apply(updates.data(), updates.size()); }
    void apply(const LionUpdate *updates, std::size_t count) {
        called([&] { return lion_apply(get(), updates, count); });
    }

    /// A step in parts: measure if a clip by norm or a dynamic loss scale needs it, begin, any number of parts, finish.
    void measure(const std::vector<LionGradient> &gradients) {
        called([&] { return lion_measure(get(), gradients.data(), gradients.size()); });
    }
    void begin(LionBegin options = {}) {
        options.struct_size = sizeof options;
        check(lion_begin(get(), &options));
    }
    void part(Updates updates) {
        called([&] { return lion_part(get(), updates.begin(), updates.size()); });
    }
    void part(const std::vector<LionUpdate> &updates) {
        called([&] { return lion_part(get(), updates.data(), updates.size()); });
    }
    void finish() { check(lion_finish(get())); }
    void abandon() { check(lion_abandon(get(), nullptr)); }

    /// The statistics of blocks of a variable that have been measured, for other processes.
    std::vector<LionBlock> statistics(Variable variable, std::size_t first, std::size_t count) {
        std::vector<LionBlock> blocks(count);
        check(lion_statistics(get(), variable, first, blocks.data(), count));
        return blocks;
    }
    /// Adds those that other processes have measured.
    void add_statistics(Variable variable, std::size_t first, const std::vector<LionBlock> &blocks) {
        check(lion_add_statistics(get(), variable, first, blocks.data(), blocks.size()));
    }

    /// Overwrites each parameter with its moving average.
    void finalize(const std::vector<LionUpdate> &updates) {
        called([&] { return lion_finalize(get(), updates.data(), updates.size()); });
    }

    /// Sets an option by its name, to a value in JSON.
    void set(const std::string &name, const std::string &value) {
        check(lion_set(get(), name.c_str(), value.c_str()));
    }
    void set_learning_rate(double value) { check(lion_set_learning_rate(get(), value)); }

    void set_plan(LionPlan plan) {
        plan.struct_size = sizeof plan;
        check(lion_set_plan(get(), &plan));
    }

    /// Runs the work of calls on the host's threads. If `parallel_for` throws, the call finishes its work on this thread and
    /// then throws the same.
    void set_parallel_for(std::size_t threads, ParallelFor parallel_for) {
        auto host = std::make_unique<Host>(std::move(parallel_for));
        check(lion_set_parallel_for(get(), threads, &Host::run, host.get()));
        host_ = std::move(host);
    }
    void clear_parallel_for() {
        check(lion_set_parallel_for(get(), 0, nullptr, nullptr));
        host_.reset();
    }

    /// Writes a checkpoint, with the given parameters.
    void save(const std::string &path, const std::vector<LionUpdate> &parameters = {}) {
        check(lion_save(get(), path.c_str(), parameters.data(), parameters.size()));
    }
    /// Restores a checkpoint, and reads the given parameters.
    void load(const std::string &path, const std::vector<LionUpdate> &parameters = {}) {
        check(lion_load(get(), path.c_str(), parameters.data(), parameters.size()));
    }

    LionMetrics metrics() const {
        LionMetrics metrics{};
        metrics.struct_size = sizeof metrics;
        check(lion_metrics(get(), &metrics));
        return metrics;
    }

private:
    /// The host's function, and the exception it threw: none may pass through the library.
    struct Host {
        explicit Host(ParallelFor given) : function(std::move(given)) {}

        static void run(void *context, std::size_t workers, LionWork work, void *argument) {
            Host &host = *static_cast<Host *>(context);
            try {
                host.function(workers, [=](std::size_t worker) { work(argument, worker); });
            } catch (...) {
                host.thrown = std::current_exception();
            }
        }

        ParallelFor function;
        std::exception_ptr thrown;
    };

    struct Free {
        void operator()(LionOptimizer *optimizer) const noexcept { lion_free(optimizer); }
    };

    explicit Optimizer(LionOptimizer *made) : handle_(made) {}

    template <typename Call> void called(Call call) {
        const LionStatus status = call();
        if (host_ && host_->thrown)
            std::rethrow_exception(std::exchange(host_->thrown, nullptr));
        check(status);
    }

    // Members are destroyed in reverse order: the optimizer before the function that it may call.
    std::unique_ptr<Host> host_;
    std::unique_ptr<LionOptimizer, Free> handle_;
};

} // namespace lion

#endif // LION_HPP
