/* One step on two processes: each holds half of a variable's momentum and has the gradient of its half. The gradient is
 * clipped by its global norm, which neither process knows alone: they exchange the statistics of its blocks over a socket,
 * as ranks of MPI do with MPI_Allgather. The result has the bits of one process. On Unix.
 *
 *     gcc -std=c11 -I include examples/shards.c -L LIBRARIES -llion_c -o shards
 */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lion.h"

enum { BLOCKS = 5, ELEMENTS = (BLOCKS - 1) * LION_BLOCK + 100, STEPS = 20 };

/* The first block of each process's shard, and the end of the last. */
static const size_t FIRST[] = {0, 2, BLOCKS};

static size_t element(size_t block) {
    return block < BLOCKS ? block * LION_BLOCK : ELEMENTS;
}

static void must(int right, const char *what) {
    if (!right) {
        fprintf(stderr, "shards: %s: %s\n", what, lion_last_error());
        exit(EXIT_FAILURE);
    }
}

/* Any numbers that both processes make alike. */
static void make_gradient(float *gradient, int step) {
    unsigned state = 1u + (unsigned)step;
    for (size_t i = 0; i < ELEMENTS; i++) {
        state = state * 1664525u + 1013904223u;
        gradient[i] = (float)(state >> 16) / 32768.0f - 1.0f;
    }
}

static LionOptimizer *make_optimizer(size_t shard_start, size_t shard_end, LionVariable *variable) {
    LionOptions options;
    must(lion_options_init(&options, sizeof options) == LION_OK, "options");
    options.json = "{\"global_clipnorm\": 1, \"learning_rate\": {\"class_name\": \"CosineDecay\","
                   " \"config\": {\"initial_learning_rate\": 0.5, \"decay_steps\": 20}}}";
    LionOptimizer *optimizer = NULL;
    must(lion_new(&options, &optimizer) == LION_OK, "new");
    const LionVariableOptions shard = {.struct_size = sizeof shard, .shard_start = shard_start, .shard_end = shard_end};
    const size_t shape[] = {ELEMENTS};
    must(lion_register(optimizer, "weights", shape, 1, LION_F32, &shard, variable) == LION_OK, "register");
    return optimizer;
}

static LionUpdate update_of(LionVariable variable, float *parameter, const float *gradient, size_t start, size_t end) {
    return (LionUpdate){.struct_size = sizeof(LionUpdate),
                        .variable = variable,
                        .parameter = parameter + start,
                        .gradient = gradient + start,
                        .len = end - start,
                        .parameter_dtype = LION_F32,
                        .gradient_dtype = LION_F32,
                        .range_start = start,
                        .range_end = end};
}

static void send_all(int connection, const void *bytes, size_t count) {
    must(write(connection, bytes, count) == (ssize_t)count, "write");
}

static void receive_all(int connection, void *bytes, size_t count) {
    for (size_t done = 0; done < count;) {
        const ssize_t part = read(connection, (char *)bytes + done, count - done);
        must(part > 0, "read");
        done += (size_t)part;
    }
}

/* Trains this process's shard. */
static void train(int rank, int connection, float *parameter) {
    static float gradient[ELEMENTS];
    const size_t first = FIRST[rank], end = FIRST[rank + 1], other = FIRST[1 - rank], other_end = FIRST[2 - rank];
    LionVariable variable = 0;
    LionOptimizer *optimizer = make_optimizer(element(first), element(end), &variable);
    const LionBegin begin = {.struct_size = sizeof begin, .elsewhere = 1};

    for (int step = 0; step < STEPS; step++) {
        make_gradient(gradient, step);
        const LionUpdate update = update_of(variable, parameter, gradient, element(first), element(end));
        const LionGradient measured = {.struct_size = sizeof measured,
                                       .variable = variable,
                                       .gradient = update.gradient,
                                       .len = update.len,
                                       .gradient_dtype = LION_F32,
                                       .range_start = update.range_start,
                                       .range_end = update.range_end};
        must(lion_measure(optimizer, &measured, 1) == LION_OK, "measure");

        LionBlock blocks[BLOCKS];
        must(lion_statistics(optimizer, variable, first, blocks + first, end - first) == LION_OK, "statistics");
        send_all(connection, blocks + first, (end - first) * sizeof *blocks);
        receive_all(connection, blocks + other, (other_end - other) * sizeof *blocks);
        must(lion_add_statistics(optimizer, variable, other, blocks + other, other_end - other) == LION_OK, "add");

        must(lion_begin(optimizer, &begin) == LION_OK, "begin");
        must(lion_part(optimizer, &update, 1) == LION_OK, "part");
        must(lion_finish(optimizer) == LION_OK, "finish");
    }
    must(lion_free(optimizer) == LION_OK, "free");
}

int main(void) {
    static float parameter[ELEMENTS], alone[ELEMENTS], gradient[ELEMENTS];
    int ends[2];
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "socketpair");
    const size_t cut = element(FIRST[1]);
    const pid_t child = fork();
    must(child >= 0, "fork");
    if (child == 0) {
        close(ends[0]);
        train(1, ends[1], parameter);
        send_all(ends[1], parameter + cut, (ELEMENTS - cut) * sizeof(float));
        close(ends[1]);
        return EXIT_SUCCESS;
    }
    close(ends[1]);
    train(0, ends[0], parameter);
    receive_all(ends[0], parameter + cut, (ELEMENTS - cut) * sizeof(float));
    close(ends[0]);
    int status = -1;
    must(waitpid(child, &status, 0) == child && status == 0, "the other process failed");

    LionVariable variable = 0;
    LionOptimizer *optimizer = make_optimizer(0, 0, &variable);
    for (int step = 0; step < STEPS; step++) {
        make_gradient(gradient, step);
        const LionUpdate update = update_of(variable, alone, gradient, 0, ELEMENTS);
        must(lion_apply(optimizer, &update, 1) == LION_OK, "apply");
    }
    LionMetrics metrics = {.struct_size = sizeof metrics};
    must(lion_metrics(optimizer, &metrics) == LION_OK, "metrics");
    must(lion_free(optimizer) == LION_OK, "free");

    const int same = memcmp(parameter, alone, sizeof alone) == 0;
    printf("%d steps on two processes, a gradient of norm %.3f clipped to 1: %s\n", STEPS, (double)metrics.gradient_norm,
           same ? "the bits of one process" : "other bits than one process");
    return same && metrics.clipped ? EXIT_SUCCESS : EXIT_FAILURE;
}
