/* Loads the library, steps on its threads, and unloads it, twenty times: reload LIBRARY. The worker threads outlive the
 * unloading, so the library must stay. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lion.h"

/* ISO C has no cast from an object's address to a function's. */
#define FIND(name)                                                       \
    do {                                                                 \
        void *found = dlsym(library, #name);                             \
        if (found == NULL) {                                             \
            fprintf(stderr, "reload: %s: %s\n", #name, dlerror());       \
            return EXIT_FAILURE;                                         \
        }                                                                \
        memcpy(&name##_, &found, sizeof found);                          \
    } while (0)

enum { ELEMENTS = 200000 };

int main(int count, char **arguments) {
    static float parameter[ELEMENTS], gradient[ELEMENTS];
    if (count != 2)
        return 2;
    for (int turn = 0; turn < 20; turn++) {
        void *library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
        if (library == NULL) {
            fprintf(stderr, "reload: %s\n", dlerror());
            return EXIT_FAILURE;
        }
        LionStatus (*lion_new_)(const LionOptions *, LionOptimizer **);
        LionStatus (*lion_set_plan_)(LionOptimizer *, const LionPlan *);
        LionStatus (*lion_register_)(LionOptimizer *, const char *, const size_t *, size_t, uint32_t,
                                     const LionVariableOptions *, LionVariable *);
        LionStatus (*lion_apply_)(LionOptimizer *, const LionUpdate *, size_t);
        LionStatus (*lion_free_)(LionOptimizer *);
        const char *(*lion_last_error_)(void);
        FIND(lion_new);
        FIND(lion_set_plan);
        FIND(lion_register);
        FIND(lion_apply);
        FIND(lion_free);
        FIND(lion_last_error);

        LionOptimizer *optimizer = NULL;
        const size_t shape[] = {ELEMENTS};
        const LionPlan plan = {.struct_size = sizeof plan, .chunk_elements = 4096, .parallel_threshold = 1};
        LionUpdate update = {
            .struct_size = sizeof update,
            .parameter = parameter,
            .gradient = gradient,
            .len = ELEMENTS,
            .parameter_dtype = LION_F32,
            .gradient_dtype = LION_F32,
        };
        for (int index = 0; index < ELEMENTS; index++)
            gradient[index] = 1.0f;
        if (lion_new_(NULL, &optimizer) || lion_set_plan_(optimizer, &plan) ||
            lion_register_(optimizer, "a", shape, 1, LION_F32, NULL, &update.variable) ||
            lion_apply_(optimizer, &update, 1) || lion_free_(optimizer)) {
            fprintf(stderr, "reload: %s\n", lion_last_error_());
            return EXIT_FAILURE;
        }
        if (dlclose(library) != 0)
            return EXIT_FAILURE;
    }
    const float moved = parameter[0];
    for (int index = 0; index < ELEMENTS; index++)
        if (parameter[index] != moved)
            return EXIT_FAILURE;
    if (moved > -0.019f || moved < -0.021f)
        return EXIT_FAILURE;
    puts("loaded and unloaded 20 times");
    return EXIT_SUCCESS;
}
