/* A classifier of handwritten digits, in C: the training of lion/examples/digits, step by step, in f32. It ends with the
 * digest of the weights, which is the one that the Rust example prints.
 *
 *     gcc -std=c11 -O2 -ffp-contract=off -I include examples/digits.c -L LIBRARIES -llion_c -lm -o digits
 *     ./digits ../lion/examples/digits/digits.csv
 *
 * Every operation is rounded once and in a fixed order, so that every machine computes the same gradients. Compilers that
 * fuse a product and a sum by themselves must be told not to.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lion.h"

enum { PIXELS = 64, HIDDEN = 128, CLASSES = 10, VARIABLES = 4 };
enum { EPOCHS = 30, BATCH = 32, MOST_DIGITS = 2000 };

typedef struct {
    float pixels[PIXELS];
    int label;
} Digit;

typedef struct {
    Digit digits[MOST_DIGITS];
    int count;
} Digits;

/* The variables of the network: parameters, or their gradients. A weight has a row for each of its inputs. */
typedef struct {
    float hidden_weight[PIXELS * HIDDEN];
    float hidden_bias[HIDDEN];
    float output_weight[HIDDEN * CLASSES];
    float output_bias[CLASSES];
} Network;

typedef struct {
    const char *name;
    size_t offset;
    size_t shape[2];
    size_t rank;
} Layer;

static const Layer LAYERS[VARIABLES] = {
    {"hidden.weight", offsetof(Network, hidden_weight) / sizeof(float), {PIXELS, HIDDEN}, 2},
    {"hidden.bias", offsetof(Network, hidden_bias) / sizeof(float), {HIDDEN, 0}, 1},
    {"output.weight", offsetof(Network, output_weight) / sizeof(float), {HIDDEN, CLASSES}, 2},
    {"output.bias", offsetof(Network, output_bias) / sizeof(float), {CLASSES, 0}, 1},
};

static size_t elements(const Layer *layer) {
    return layer->rank == 2 ? layer->shape[0] * layer->shape[1] : layer->shape[0];
}

static float *tensor(Network *network, const Layer *layer) {
    return (float *)(void *)network + layer->offset;
}

/* ---- Random numbers: SplitMix64 ---- */

static uint64_t random_next(uint64_t *state) {
    *state += 0x9e3779b97f4a7c15u;
    uint64_t z = *state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Between -1 and 1. */
static float random_uniform(uint64_t *state) {
    const uint64_t high = random_next(state) >> 39;
    const int32_t value = (int32_t)high - ((high >> 24) != 0 ? 1 << 25 : 0);
    return (float)value / 16777216.0f;
}

static void shuffle(uint64_t *state, const Digit **digits, int count) {
    for (int left = count; left > 0; left--) {
        const int chosen = (int)(random_next(state) % (uint64_t)left);
        const Digit *last = digits[left - 1];
        digits[left - 1] = digits[chosen];
        digits[chosen] = last;
    }
}

/* ---- The network ---- */

/* The exponential of a number that is not positive, with the operations of Rust's crate libm (those of FreeBSD's msun):
 * x = k ln 2 + r, and a rational function of r. The platform's own may differ in the last bit. */
static float exponential(float x) {
    if (x <= -0x1.9fe36ap+6f)
        return 0.0f;
    if (x >= -0x1p-13f)
        return 1.0f + x;
    int k = 0;
    float high = x, low = 0.0f, r = x;
    if (x < -0x1.62e430p-2f) {
        k = x < -0x1.0a2b24p+0f ? (int)(0x1.715476p+0f * x - 0.5f) : -1;
        high = x - (float)k * 0x1.62e400p-1f;
        low = (float)k * 0x1.7f7d1cp-20f;
        r = high - low;
    }
    const float square = r * r;
    const float c = r - square * (0x1.55551ep-3f + square * -0x1.6aa42ap-9f);
    const float y = 1.0f + (r * c / (2.0f - c) - low + high);
    return ldexpf(y, k);
}

/* The hidden layer and the scores of the digits. */
static void forward(const Network *network, const float *pixels, float *hidden, float *scores) {
    memcpy(hidden, network->hidden_bias, sizeof network->hidden_bias);
    for (int pixel = 0; pixel < PIXELS; pixel++)
        for (int unit = 0; unit < HIDDEN; unit++)
            hidden[unit] += pixels[pixel] * network->hidden_weight[pixel * HIDDEN + unit];
    for (int unit = 0; unit < HIDDEN; unit++)
        hidden[unit] = hidden[unit] > 0.0f ? hidden[unit] : 0.0f;
    memcpy(scores, network->output_bias, sizeof network->output_bias);
    for (int unit = 0; unit < HIDDEN; unit++)
        for (int class = 0; class < CLASSES; class++)
            scores[class] += hidden[unit] * network->output_weight[unit * CLASSES + class];
}

/* Turns scores into probabilities. */
static void softmax(float *scores) {
    float highest = -INFINITY;
    for (int class = 0; class < CLASSES; class++)
        highest = scores[class] > highest ? scores[class] : highest;
    float total = -0.0f;
    for (int class = 0; class < CLASSES; class++) {
        scores[class] = exponential(scores[class] - highest);
        total += scores[class];
    }
    for (int class = 0; class < CLASSES; class++)
        scores[class] /= total;
}

/* Adds the product of each pair to its place in a matrix, a row for each of the left. */
static void add_products(float *matrix, const float *left, int rows, const float *right, int columns) {
    for (int row = 0; row < rows; row++)
        for (int column = 0; column < columns; column++)
            matrix[row * columns + column] += left[row] * right[column];
}

/* The gradients of the batch's mean cross-entropy. */
static void backward(const Network *network, const Digit **batch, int count, Network *gradients) {
    static const float one = 1.0f;
    memset(gradients, 0, sizeof *gradients);
    for (int item = 0; item < count; item++) {
        const Digit *digit = batch[item];
        float hidden[HIDDEN], scores[CLASSES], for_hidden[HIDDEN];
        forward(network, digit->pixels, hidden, scores);
        softmax(scores);
        for (int class = 0; class < CLASSES; class++)
            scores[class] = (scores[class] - (class == digit->label ? 1.0f : 0.0f)) / (float)count;
        for (int unit = 0; unit < HIDDEN; unit++) {
            float sum = -0.0f;
            for (int class = 0; class < CLASSES; class++)
                sum += network->output_weight[unit * CLASSES + class] * scores[class];
            for_hidden[unit] = hidden[unit] > 0.0f ? sum : 0.0f;
        }
        add_products(gradients->output_weight, hidden, HIDDEN, scores, CLASSES);
        add_products(gradients->output_bias, &one, 1, scores, CLASSES);
        add_products(gradients->hidden_weight, digit->pixels, PIXELS, for_hidden, HIDDEN);
        add_products(gradients->hidden_bias, &one, 1, for_hidden, HIDDEN);
    }
}

/* ---- The data ---- */

static int read_digits(const char *path, Digits *training, Digits *held_out) {
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        fprintf(stderr, "digits: %s: cannot be opened\n", path);
        return 0;
    }
    int line = 0, fine = 1;
    for (int pixel; fine && fscanf(file, "%d,", &pixel) == 1;) {
        line++;
        Digits *part = line % 5 == 0 ? held_out : training;
        if (part->count == MOST_DIGITS) {
            fine = 0;
            break;
        }
        Digit *digit = &part->digits[part->count++];
        digit->pixels[0] = (float)pixel / 16.0f;
        for (int index = 1; fine && index < PIXELS; index++) {
            fine = fscanf(file, "%d,", &pixel) == 1;
            digit->pixels[index] = (float)pixel / 16.0f;
        }
        fine = fine && fscanf(file, "%d", &digit->label) == 1 && digit->label >= 0 && digit->label < CLASSES;
    }
    fine = fine && feof(file) && training->count > 0 && held_out->count > 0;
    fclose(file);
    if (!fine)
        fprintf(stderr, "digits: %s, line %d: not a digit\n", path, line);
    return fine;
}

/* The share that the network reads as they were meant, in percent. */
static double accuracy(const Network *network, const Digits *digits) {
    int right = 0;
    for (int index = 0; index < digits->count; index++) {
        float hidden[HIDDEN], scores[CLASSES];
        forward(network, digits->digits[index].pixels, hidden, scores);
        int best = 0;
        for (int class = 1; class < CLASSES; class++)
            best = scores[class] >= scores[best] ? class : best;
        right += best == digits->digits[index].label;
    }
    return 100.0 * right / digits->count;
}

/* ---- The training ---- */

static int failed(const char *what) {
    fprintf(stderr, "digits: %s: %s\n", what, lion_last_error());
    return 0;
}

/* An optimizer that knows the variables, and one update for each. */
static LionOptimizer *prepare(Network *network, Network *gradients, LionUpdate *updates) {
    LionOptions options;
    LionOptimizer *optimizer = NULL;
    if (lion_options_init(&options, sizeof options) != LION_OK)
        return NULL;
    options.learning_rate = 0.001f;
    options.weight_decay = 2.0;
    if (lion_new(&options, &optimizer) != LION_OK) {
        failed("new");
        return NULL;
    }
    for (int index = 0; index < VARIABLES; index++) {
        const Layer *layer = &LAYERS[index];
        updates[index] = (LionUpdate){
            .struct_size = sizeof updates[index],
            .parameter = tensor(network, layer),
            .gradient = tensor(gradients, layer),
            .len = elements(layer),
            .parameter_dtype = LION_F32,
            .gradient_dtype = LION_F32,
        };
        LionVariable *variable = &updates[index].variable;
        if (lion_register(optimizer, layer->name, layer->shape, layer->rank, LION_F32, NULL, variable) != LION_OK) {
            failed(layer->name);
            lion_free(optimizer);
            return NULL;
        }
    }
    return optimizer;
}

static int train(Network *network, int epochs, const Digits *training, const Digits *held_out) {
    static Network gradients;
    static const Digit *order[MOST_DIGITS];
    uint64_t random = 3;
    for (int index = 0; index < VARIABLES; index++) {
        const Layer *layer = &LAYERS[index];
        /* Biases stay zero; weights keep the variance of what they pass on (He et al., 2015). */
        const float bound = sqrtf(6.0f / (float)layer->shape[0]);
        for (size_t at = 0; layer->rank == 2 && at < elements(layer); at++)
            tensor(network, layer)[at] = bound * random_uniform(&random);
    }
    for (int index = 0; index < training->count; index++)
        order[index] = &training->digits[index];

    LionUpdate updates[VARIABLES];
    LionOptimizer *optimizer = prepare(network, &gradients, updates);
    int fine = optimizer != NULL;
    for (int epoch = 1; fine && epoch <= epochs; epoch++) {
        shuffle(&random, order, training->count);
        for (int start = 0; fine && start < training->count; start += BATCH) {
            const int count = training->count - start < BATCH ? training->count - start : BATCH;
            backward(network, order + start, count, &gradients);
            fine = lion_apply(optimizer, updates, VARIABLES) == LION_OK || failed("apply");
        }
        if (fine && epoch % 10 == 0)
            printf("epoch %2d   held out %.2f %%\n", epoch, accuracy(network, held_out));
    }
    lion_free(optimizer);
    return fine;
}

/* FNV-1a over the bits of all weights. */
static uint64_t digest(Network *network) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (int index = 0; index < VARIABLES; index++)
        for (size_t at = 0; at < elements(&LAYERS[index]); at++) {
            uint32_t bits;
            memcpy(&bits, &tensor(network, &LAYERS[index])[at], sizeof bits);
            for (int byte = 0; byte < 4; byte++)
                hash = (hash ^ ((bits >> (8 * byte)) & 0xff)) * 0x100000001b3u;
        }
    return hash;
}

int main(int count, char **arguments) {
    static Network network;
    static Digits training, held_out;
    if (count != 2 && count != 3) {
        fprintf(stderr, "usage: digits DIGITS.csv [EPOCHS]\n");
        return 2;
    }
    const int epochs = count == 3 ? atoi(arguments[2]) : EPOCHS;
    if (!read_digits(arguments[1], &training, &held_out) || !train(&network, epochs, &training, &held_out))
        return EXIT_FAILURE;
    printf("digest %016llx\n", (unsigned long long)digest(&network));
    return EXIT_SUCCESS;
}
