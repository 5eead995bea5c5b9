/* Fits y = 3 x + 1 by gradient descent on the squared error: the smallest program that has all it needs.
 *
 *     gcc -std=c11 -I include examples/linear.c -L LIBRARIES -llion_c -o linear
 */
#include <stdio.h>
#include <stdlib.h>

#include "lion.h"

/* Ends the program if a call failed. */
static void must(LionStatus status, const char *what) {
    if (status != LION_OK) {
        fprintf(stderr, "linear: %s: error %d: %s\n", what, (int)status, lion_last_error());
        exit(EXIT_FAILURE);
    }
}

int main(void) {
    if (lion_abi_version() < LION_ABI_VERSION) {
        fprintf(stderr, "linear: the library is older than its header\n");
        return EXIT_FAILURE;
    }

    LionOptions options;
    must(lion_options_init(&options, sizeof options), "options");
    options.learning_rate = 0.01;
    options.json = "{\"global_clipnorm\": 10}";
    LionOptimizer *optimizer = NULL;
    must(lion_new(&options, &optimizer), "new");

    LionVariable line = 0;
    const size_t shape[] = {2};
    must(lion_register(optimizer, "line", shape, 1, LION_F32, NULL, &line), "register");

    float parameter[] = {0.0f, 0.0f};
    float gradient[2];
    LionUpdate update = {
        .struct_size = sizeof update,
        .variable = line,
        .parameter = parameter,
        .gradient = gradient,
        .len = 2,
        .parameter_dtype = LION_F32,
        .gradient_dtype = LION_F32,
    };
    for (int call = 0; call < 2000; call++) {
        if (call == 1500)
            must(lion_set_learning_rate(optimizer, 0.001), "learning rate");
        const float x = (float)(call % 7) - 3.0f;
        const float error = parameter[0] * x + parameter[1] - (3.0f * x + 1.0f);
        gradient[0] = 2.0f * error * x;
        gradient[1] = 2.0f * error;
        must(lion_apply(optimizer, &update, 1), "apply");
    }

    LionMetrics metrics = {.struct_size = sizeof metrics};
    must(lion_metrics(optimizer, &metrics), "metrics");
    printf("y = %.2f x + %.2f after %llu calls\n", (double)parameter[0], (double)parameter[1],
           (unsigned long long)metrics.iterations);
    must(lion_free(optimizer), "free");

    const int found = parameter[0] > 2.98f && parameter[0] < 3.02f && parameter[1] > 0.98f && parameter[1] < 1.02f;
    return found ? EXIT_SUCCESS : EXIT_FAILURE;
}
