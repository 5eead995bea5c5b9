// Fits y = 3 x + 1, as linear.c does, with the wrapper of C++17: in bf16 with a copy in f32, on threads of the program's
// own, saved and resumed.
//
//     g++ -std=c++17 -pthread -I include examples/linear.cpp -L LIBRARIES -llion_c -o linear

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

#include "lion.hpp"

namespace {

/// A gradient in bf16, cut and not rounded: a sign survives it.
lion::bf16 narrowed(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return {static_cast<std::uint16_t>(bits >> 16)};
}

/// Many parameters that are moved alike, so that there is work for threads.
constexpr std::size_t COPIES = 20000;

struct Fit {
    std::vector<float> parameter = std::vector<float>(2 * COPIES);
    std::vector<lion::bf16> gradient = std::vector<lion::bf16>(2 * COPIES);
    std::vector<lion::bf16> copy = std::vector<lion::bf16>(2 * COPIES);
    lion::Optimizer optimizer{lion::Options().learning_rate(0.01)};
    lion::Variable line = optimizer.add("line", {COPIES, 2}, LION_F32);

    void step(int call) {
        const float x = static_cast<float>(call % 7) - 3.0f;
        const float error = parameter[0] * x + parameter[1] - (3.0f * x + 1.0f);
        for (std::size_t index = 0; index < COPIES; index++) {
            gradient[2 * index] = narrowed(2.0f * error * x);
            gradient[2 * index + 1] = narrowed(2.0f * error);
        }
        if (call == 900)
            optimizer.set("learning_rate", "0.001");
        optimizer.apply({lion::copy_to(lion::update(line, parameter, gradient), copy)});
    }
};

} // namespace

int main(int count, char **arguments) try {
    const std::string path = count > 1 ? arguments[1] : "linear.safetensors";

    Fit fit;
    std::atomic<int> calls{0};
    fit.optimizer.set_parallel_for(2, [&](std::size_t workers, const lion::Optimizer::Work &work) {
        calls++;
        std::vector<std::thread> threads;
        for (std::size_t worker = 1; worker < workers; worker++)
            threads.emplace_back([&, worker] { work(worker); });
        work(0);
        for (std::thread &thread : threads)
            thread.join();
    });
    LionPlan plan{};
    plan.chunk_elements = 4096;
    plan.parallel_threshold = 1;
    fit.optimizer.set_plan(plan);
    for (int call = 0; call < 600; call++)
        fit.step(call);
    fit.optimizer.save(path, {lion::without_gradient(fit.line, fit.parameter)});

    // Another optimizer goes on, on one thread, and must come to the same bits.
    Fit resumed;
    resumed.optimizer.load(path, {lion::without_gradient(resumed.line, resumed.parameter)});
    std::remove(path.c_str());
    for (int call = 600; call < 1200; call++) {
        fit.step(call);
        resumed.step(call);
    }
    if (std::memcmp(fit.parameter.data(), resumed.parameter.data(), fit.parameter.size() * sizeof(float)) != 0)
        throw std::runtime_error("the resumed optimizer came to other bits");
    if (calls < 1200)
        throw std::runtime_error("the program's own threads were not used");

    // What goes wrong is an exception, and changes nothing.
    try {
        std::array<float, 3> parameter{}, gradient{};
        fit.optimizer.apply({lion::update(fit.line, parameter, gradient)});
        throw std::runtime_error("a wrong length was taken");
    } catch (const lion::Error &error) {
        std::printf("refused, status %d: %s\n", error.status(), error.what());
    }
    const LionMetrics metrics = fit.optimizer.metrics();
    std::printf("y = %.2f x + %.2f after %llu calls\n", static_cast<double>(fit.parameter[0]),
                static_cast<double>(fit.parameter[1]), static_cast<unsigned long long>(metrics.iterations));
    return EXIT_SUCCESS;
} catch (const std::exception &error) {
    std::fprintf(stderr, "linear: %s\n", error.what());
    return EXIT_FAILURE;
}
