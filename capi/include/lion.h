/* The Lion optimizer: it moves a program's own memory, with the same bits on every machine.
 *
 *     LionOptimizer *optimizer = NULL;
 *     LionVariable weights = 0;
 *     const size_t shape[] = {2, 3};
 *     if (lion_new(NULL, &optimizer) || lion_register(optimizer, "weights", shape, 2, LION_F32, NULL, &weights))
 *         puts(lion_last_error());
 *
 *     LionUpdate update = {.struct_size = sizeof update, .variable = weights, .parameter = p, .gradient = g, .len = 6,
 *                          .parameter_dtype = LION_F32, .gradient_dtype = LION_F32};
 *     if (lion_apply(optimizer, &update, 1))
 *         puts(lion_last_error());
 *     lion_free(optimizer);
 *
 * Every function but lion_abi_version and lion_last_error returns LION_OK, which is 0, or a negative LionStatus. It then has
 * done nothing, unless it says otherwise. No function exits, prints, or lets a panic out.
 *
 * Every struct begins with struct_size, which the caller sets to sizeof: a library that knows more fields takes them as
 * absent. Fields that a caller does not use are zero, but in LionOptions, which lion_options_init fills in.
 *
 * One thread at a time may use an optimizer; different optimizers are independent. The caller upholds what the
 * library cannot see of its arguments: each function names it under "Safety".
 */


#ifndef LION_H
#define LION_H

#include <stddef.h>
#include <stdint.h>

/// The version of the ABI that this header describes: it grows when a function is added, a field at the end of a struct, or a
/// constant. Nothing else changes without another name of the library.
#define LION_ABI_VERSION 1

/// IEEE binary32.
#define LION_F32 1

/// IEEE binary16.
#define LION_F16 2

/// bfloat16, the upper half of an IEEE binary32.
#define LION_BF16 3

/// No weight decay, as a value of `weight_decay`. It is not 0, by which a parameter of -0 becomes +0.
#define LION_OFF -1.0

/// An outcome: there was no call yet, or it named no variable.
#define LION_NOTHING 0

/// An outcome: the call moved the parameters.
#define LION_UPDATED 1

/// An outcome: the call added the gradients to the accumulators.
#define LION_ACCUMULATED 2

/// An outcome: only variables that are overwritten with their gradient had one.
#define LION_OVERWRITTEN 3

/// An outcome: a gradient was not finite, so the dynamic loss scale was halved, and nothing else happened.
#define LION_SKIPPED 4

/// A bit of `known`: `loss_scale`.
#define LION_KNOWS_LOSS_SCALE 1

/// A bit of `known`: `gradient_norm`.
#define LION_KNOWS_GRADIENT_NORM 2

/// A bit of `known`: `clipped_norm`.
#define LION_KNOWS_CLIPPED_NORM 4

/// A bit of `known`: `clipped`.
#define LION_KNOWS_CLIPPED 8

/// A bit of `known`: `non_finite`.
#define LION_KNOWS_NON_FINITE 16

/// An optimizer. One call at a time may use it; another thread's call at the same time returns `LION_ERROR_BUSY`.
typedef struct LionOptimizer LionOptimizer;

/// The result of a function: `LION_OK`, or a negative number by the kind of error. `lion_last_error` has the message. The numbers stay the same in all versions; later versions may add some.
typedef int32_t LionStatus;

/// How the work of a call is cut and where it runs. A field of zero leaves it to the profile that `lion tune` has written
/// for this machine, or else to the defaults. No field changes a bit of a result.
typedef struct LionPlan {
    /// `sizeof(LionPlan)`.
    size_t struct_size;
    /// The instruction set: "scalar", "avx2", "avx512", "neon", or "auto" for the fastest here.
    const char *isa;
    /// The most threads that share a call.
    size_t threads;
    /// Elements of a piece of work, in whole blocks of 4,096.
    size_t chunk_elements;
    /// Bytes of a call's tensors below which it stays on the calling thread. If it is given, one plan is for all work, and
    /// no profile is looked at.
    size_t parallel_threshold;
} LionPlan;

/// Options of an optimizer: the common few as fields, all others by name. `lion_options_init` fills in the defaults.
typedef struct LionOptions {
    /// `sizeof(LionOptions)`.
    size_t struct_size;
    /// How far a step moves each element, in [0, inf); 0.001 by default.
    double learning_rate;
    /// The share of the old momentum in the direction of a step, in (0, 1]; 0.9 by default.
    double beta_1;
    /// The share of the old momentum in the new one, in [0, 1]; 0.99 by default.
    double beta_2;
    /// Decoupled weight decay, in [0, inf), or `LION_OFF`, the default.
    double weight_decay;
    /// All other options, by the names that `lion_set` takes, as a JSON object such as
    /// `{"global_clipnorm": 1, "momentum_dtype": "bf16", "exclude_from_weight_decay": ["bias$"]}`. An option that is also a
    /// field above may be a schedule here, and is then the stronger one. Null for none.
    const char *json;
    /// How the work is cut and where it runs; null for the profile that `lion tune` has written on this machine, or else the
    /// defaults. It changes no bit of a result.
    const struct LionPlan *plan;
} LionOptions;

/// Options of one variable. Zero is the default of each.
typedef struct LionVariableOptions {
    /// `sizeof(LionVariableOptions)`.
    size_t struct_size;
    /// The momentum's dtype; 0 for the optimizer's choice, or else the parameter's dtype.
    uint32_t momentum_dtype;
    /// Other than 0: no weight decay for this variable, whatever its name.
    uint32_t exclude_from_weight_decay;
    /// Other than 0: the gradient is the variable's new value, as with Keras's `overwrite_with_gradient`.
    uint32_t overwrite_with_gradient;
    /// Other than 0: leaves the variable out of `stochastic_rounding` and `split_master`, which are for bf16 alone.
    uint32_t nearest_rounding;
    /// The first element, in row-major order, that the optimizer keeps the state of, and one past the last: a shard, whose
    /// parameters and gradients come by ranges within it. Both 0 for all.
    size_t shard_start;
    /// One past the shard's last element.
    size_t shard_end;
} LionVariableOptions;

/// A variable of the optimizer that registered it: its number in the order of registration, from 0.
typedef uint64_t LionVariable;

/// A variable's tensors in one call: the parameter, which the call moves, and its gradient. Unused fields are zero.
typedef struct LionUpdate {
    /// `sizeof(LionUpdate)`.
    size_t struct_size;
    /// The variable.
    LionVariable variable;
    /// The parameter, of the variable's dtype.
    void *parameter;
    /// The gradient; null if the variable has none in this call. Nothing is then done to it, but that it takes part in the
    /// moving average.
    const void *gradient;
    /// The elements of each tensor: those of the variable's shape, or of the range.
    size_t len;
    /// The dtype of `parameter` and `source`: `LION_F32`, `LION_F16` or `LION_BF16`.
    uint32_t parameter_dtype;
    /// The gradient's dtype, any; not looked at without one.
    uint32_t gradient_dtype;
    /// The first of the variable's elements, in row-major order, that the tensors are of, and one past the last. Both 0 for
    /// all.
    size_t range_start;
    /// One past the last element of the range.
    size_t range_end;
    /// The parameter is read from here and written to `parameter`. Null if it is moved in place.
    const void *source;
    /// The parameter, as it is stored after the call, is also written here, in any dtype. Null for no copy.
    void *copy;
    /// The dtype of `copy`; not looked at without one.
    uint32_t copy_dtype;
    /// Zero.
    uint32_t reserved;
} LionUpdate;

/// Metrics of the last step, and the learning rate and loss scale of the next. Metrics cost nothing: a value that the step did
/// not need is unknown, its bit of `known` is 0, and so is the field.
typedef struct LionMetrics {
    /// `sizeof(LionMetrics)`, which the caller sets.
    size_t struct_size;
    /// The outcome of the last step: `LION_NOTHING`, `LION_UPDATED` or another outcome.
    uint32_t outcome;
    /// The fields that are known, as bits `LION_KNOWS_...`.
    uint32_t known;
    /// The learning rate of the last step.
    float learning_rate;
    /// The divisor of the gradients, if the loss is scaled.
    float loss_scale;
    /// The L2 norm over all gradients of an update before they were clipped: known with `clipnorm`, `global_clipnorm` and
    /// dynamic loss scaling.
    float gradient_norm;
    /// The same after they were clipped: not known with `clipvalue`.
    float clipped_norm;
    /// 1 if clipping changed a gradient by more than rounding.
    uint32_t clipped;
    /// The learning rate of the next step.
    float next_learning_rate;
    /// The factor for the loss of the next step; 1 without a loss scale.
    float next_loss_scale;
    /// Zero.
    uint32_t reserved;
    /// How many elements of the gradients were infinite or NaN.
    uint64_t non_finite;
    /// The steps so far, without those that a dynamic loss scale skipped. It is the step that schedules see next.
    uint64_t iterations;
} LionMetrics;

/// A gradient, or a part of one, to be measured before its step.
typedef struct LionGradient {
    /// `sizeof(LionGradient)`.
    size_t struct_size;
    /// The variable.
    LionVariable variable;
    /// The gradient.
    const void *gradient;
    /// Its elements: those of the variable's shape, or of the range.
    size_t len;
    /// Its dtype.
    uint32_t gradient_dtype;
    /// Zero.
    uint32_t reserved;
    /// The first of the variable's elements that the gradient is of: a multiple of 4,096. With `range_end` 0 for all.
    size_t range_start;
    /// One past the last element: a multiple of 4,096, or the variable's end.
    size_t range_end;
} LionGradient;

/// How a step begins. All zeros but the size is the ordinary way.
typedef struct LionBegin {
    /// `sizeof(LionBegin)`.
    size_t struct_size;
    /// Other than 0: only variables that are overwritten with their gradient will have one.
    uint32_t only_overwrites;
    /// Other than 0: other optimizers hold other shards of the variables, and may have the step's gradients, so that the step
    /// counts also if none is given here.
    uint32_t elsewhere;
} LionBegin;

/// Elements of a variable.
typedef struct LionRange {
    /// `sizeof(LionRange)`, which the caller sets.
    size_t struct_size;
    /// The variable.
    LionVariable variable;
    /// The first element, in row-major order.
    size_t start;
    /// One past the last element.
    size_t end;
} LionRange;

/// A piece of the library's work: `run(work, index)` does the part of worker `index`.
typedef void (*LionWork)(void *work, size_t index);

/// A function of the host's that runs `run(work, 0)` to `run(work, n - 1)`, on any threads, and returns when all have
/// returned. `context` is what `lion_set_parallel_for` was given.
///
/// A worker that is run twice or not at all is no error: what is left when the function returns is done on the calling
/// thread. The function must neither throw nor jump out, must not use `work` after it has returned, and gets `LION_ERROR_BUSY`
/// from calls on the same optimizer.
typedef void (*LionParallelFor)(void *context, size_t n, LionWork run, void *work);

/// The tensors of one step of `lion_step`, all of the same length. Unused fields are zero.
typedef struct LionStepTensors {
    /// `sizeof(LionStepTensors)`.
    size_t struct_size;
    /// The parameter, which the step moves.
    void *parameter;
    /// The gradient.
    const void *gradient;
    /// The momentum, which the step moves; zero before the first step.
    void *momentum;
    /// The elements of each tensor.
    size_t len;
    /// The dtype of `parameter` and `source`: `LION_F32`, `LION_F16` or `LION_BF16`.
    uint32_t parameter_dtype;
    /// The gradient's dtype, any.
    uint32_t gradient_dtype;
    /// The momentum's dtype, any.
    uint32_t momentum_dtype;
    /// The dtype of `copy`; not looked at without one.
    uint32_t copy_dtype;
    /// The parameter is read from here and written to `parameter`. Null if it is moved in place.
    const void *source;
    /// The parameter, as it is stored after the step, is also written here. Null for no copy.
    void *copy;
} LionStepTensors;

/// The result of `lion_advise_huge_pages`.
typedef struct LionHugePages {
    /// `sizeof(LionHugePages)`, which the caller sets.
    size_t struct_size;
    /// How many pages of 2 MiB lie wholly within the memory.
    size_t whole;
    /// How many of them are huge pages now.
    size_t collapsed;
    /// 1 if the system was told to make the others so when it can.
    size_t advised;
} LionHugePages;

/// It worked.
#define LION_OK 0

/// An option or an argument outside its range or of another type, or options that exclude each other.
#define LION_ERROR_VALUE -1

/// The name or the number of something that does not exist, or a name that exists already.
#define LION_ERROR_NAME -2

/// Text or a file that is not what it must be.
#define LION_ERROR_FORMAT -3

/// A tensor of another shape, length or dtype than its variable's, or one that overlaps another.
#define LION_ERROR_TENSOR -4

/// Variables that a call must give, must not give, or gives twice.
#define LION_ERROR_STEP -5

/// A checkpoint of another optimizer.
#define LION_ERROR_STATE -6

/// A file that the system does not let be read or written.
#define LION_ERROR_IO -7

/// Memory that the system does not give.
#define LION_ERROR_MEMORY -8

/// Right in itself, and impossible here: on this machine, in this version, after the optimizer was built.
#define LION_ERROR_UNSUPPORTED -9

/// A pointer that is null or misaligned, or memory that would go beyond the end of the address space.
#define LION_ERROR_POINTER -50

/// Another thread is in a call on the same optimizer, or the host's own function for threads is.
#define LION_ERROR_BUSY -51

/// The library has a bug: a call panicked. The optimizer's state is not known, and every later call on the optimizer but
/// `lion_free` returns this too.
#define LION_ERROR_PANIC -100

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/// The version of the ABI that the loaded library has. A program can use it if it is at least the `LION_ABI_VERSION` that
/// the program was compiled with.
uint32_t lion_abi_version(void);

/// The message of the last call on this thread that failed, in UTF-8; empty if none has. It is at most 1,023 bytes long,
/// and cut if it would be longer.
///
/// The pointer is the same for all calls on one thread, and valid until the thread ends. The next call that fails on the
/// thread overwrites the text; a call that succeeds leaves it.
const char *lion_last_error(void);

/// Sets how the work of calls is cut and where it runs, from the next call on. It changes no bit of a result. Null for the
/// profile that `lion tune` has written on this machine, or else the defaults.
///
/// # Safety
/// As for every function: `optimizer` is of `lion_new` and not freed. `plan` is null or readable for the size that it says;
/// its `isa` ends with a zero.
LionStatus lion_set_plan(struct LionOptimizer *optimizer,
                         const struct LionPlan *plan);

/// Fills options with the defaults. `struct_size` is `sizeof(LionOptions)`.
///
/// # Safety
/// `options` is writable for `struct_size` bytes.
LionStatus lion_options_init(struct LionOptions *options, size_t struct_size);

/// Makes an optimizer with these options; null for the defaults. `lion_free` ends it.
///
/// # Safety
/// `options` is null or readable for the size that it says; its texts end with a zero. `optimizer` is null or writable.
LionStatus lion_new(const struct LionOptions *options,
                    struct LionOptimizer **optimizer);

/// Makes an optimizer from Keras's JSON: `optimizer.get_config()`, `keras.optimizers.serialize(optimizer)`, a
/// `LossScaleOptimizer` around it, or a model's config that has its optimizer in it.
///
/// # Safety
/// `json` is null or a text that ends with a zero. `optimizer` is null or writable.
LionStatus lion_new_from_config(const char *json, struct LionOptimizer **optimizer);

/// Ends an optimizer. Null is no error; an optimizer that another thread is in is one, and is not ended.
///
/// # Safety
/// `optimizer` is null, or of `lion_new` and not freed; no call uses it from now on.
LionStatus lion_free(struct LionOptimizer *optimizer);

/// Sets an option by its name, from the next step on: `learning_rate`, `beta_1`, `beta_2` and `weight_decay` may change after
/// the optimizer is made; for the others, which are those of `lion::options::TABLE`, the error says so. The value is JSON: a
/// number, `null` for off, or a schedule as Keras serializes it.
///
/// # Safety
/// `optimizer` is of `lion_new` and not freed. The texts are null or end with a zero.
LionStatus lion_set(struct LionOptimizer *optimizer,
                    const char *name,
                    const char *value);

/// Sets the learning rate from the next step on, in [0, inf), in place of a number or a schedule.
///
/// # Safety
/// `optimizer` is of `lion_new` and not freed.
LionStatus lion_set_learning_rate(struct LionOptimizer *optimizer, double learning_rate);

/// Adds a variable, whose state is zero, and writes its number to `variable`. `shape` has `rank` sides; a scalar has none.
/// The name, in UTF-8, is what checkpoints know the variable by. `options` may be null.
///
/// # Safety
/// `optimizer` is of `lion_new` and not freed. `name` is null or ends with a zero; `shape` is null or readable for `rank`
/// sides; `options` is null or readable for the size that it says; `variable` is null or writable.
LionStatus lion_register(struct LionOptimizer *optimizer,
                         const char *name,
                         const size_t *shape,
                         size_t rank,
                         uint32_t dtype,
                         const struct LionVariableOptions *options,
                         LionVariable *variable);

/// Applies gradients to the variables of the call, each named at most once and in any order: a whole step. `lion_metrics`
/// tells what it did. With `n` = 0 nothing happens.
///
/// With a moving average a call must name every variable; one that has no gradient has a null one.
///
/// If it returns an error, nothing has been changed. These are found: null, misaligned and overlapping tensors, a wrong
/// dtype, length or range, an unknown variable, one that is named twice.
///
/// # Safety
/// `optimizer` is of `lion_new` and not freed. `updates` are readable, as long as the first one says. Each tensor has the
/// memory that its length and dtype say, is initialised where it is read, and is used by nothing else during the call.
LionStatus lion_apply(struct LionOptimizer *optimizer,
                      const struct LionUpdate *updates,
                      size_t n);

/// Makes each parameter its moving average, as at the end of training: Keras's `finalize_variable_values`. Every variable
/// must be named. Gradients are ignored, and nothing is counted.
///
/// # Safety
/// As for `lion_apply`.
LionStatus lion_finalize(struct LionOptimizer *optimizer,
                         const struct LionUpdate *updates,
                         size_t n);

/// Writes the metrics of the last step, by `lion_apply` or `lion_finish`, and the numbers that the next one begins with.
///
/// # Safety
/// `optimizer` is of `lion_new` and not freed. `metrics` is null, or begins with its size and is writable for as many bytes.
LionStatus lion_metrics(struct LionOptimizer *optimizer,
                        struct LionMetrics *metrics);

/// Measures gradients for the next step, which clipping by a norm and a dynamic loss scale need before the first part. It may
/// be called several times, with other gradients, and adds to what has been measured; `lion_begin` uses it up, and so does
/// everything else that is a step or changes the variables.
///
/// If it returns an error, nothing has been added. These are found: gradients that do not fit, elements that have been
/// measured before, a range that cuts a block of 4,096 elements.
///
/// # Safety
/// `optimizer` is of `lion_new` and not freed. `gradients` are readable, as long as the first one says. Each has the memory
/// that its length and dtype say, is initialised, and is not written during the call.
LionStatus lion_measure(struct LionOptimizer *optimizer,
                        const struct LionGradient *gradients,
                        size_t n);

/// Begins a step, which `lion_part` does in any number of parts and `lion_finish` ends. Hyperparameters, accumulation, loss
/// scale and clipping are decided here, with what `lion_measure` has found. Any cut into parts gives the bits of one
/// `lion_apply`. `options` may be null.
///
/// Until the step is finished or abandoned, other steps and `lion_register`, `lion_save` and `lion_load` return
/// `LION_ERROR_STEP`.
///
/// # Safety
/// `optimizer` is of `lion_new` and not freed. `options` is null or readable for the size that it says.
LionStatus lion_begin(struct LionOptimizer *optimizer,
                      const struct LionBegin *options);

/// Does the step that has begun on these variables, or on ranges of them.
///
/// If it returns an error, nothing has been changed, and the step is still open. What `lion_apply` finds is found here too,
/// and elements that the step has been given before, and gradients that it needed to be measured.
///
/// # Safety
/// As for `lion_apply`.
LionStatus lion_part(struct LionOptimizer *optimizer,
                     const struct LionUpdate *updates,
                     size_t n);

/// Ends the step that has begun, and counts it; `lion_metrics` tells what it did. Elements that were never given count as ones
/// without a gradient, and a step that was given none is not counted.
///
/// # Safety
/// `optimizer` is of `lion_new` and not freed.
LionStatus lion_finish(struct LionOptimizer *optimizer);

/// Gives up the step that has begun, if there is one: the next step has its number. What its parts have written stays written;
/// the number of such ranges goes to `ranges`, which may be null, and `lion_abandoned_range` tells them.
///
/// # Safety
/// `optimizer` is of `lion_new` and not freed. `ranges` is null or writable.
LionStatus lion_abandon(struct LionOptimizer *optimizer,
                        size_t *ranges);

/// Writes a range that the step had written which was last abandoned: its elements and their state are as after the step.
/// `index` is below the number that `lion_abandon` gave.
///
/// # Safety
/// `optimizer` is of `lion_new` and not freed. `range` is null, or begins with its size and is writable for as many bytes.
LionStatus lion_abandoned_range(struct LionOptimizer *optimizer,
                                size_t index,
                                struct LionRange *range);

/// Writes a checkpoint: all that the optimizer knows, and the parameters that are given, of which `variable`, `parameter`,
/// `parameter_dtype` and `len` are looked at. There may be none. The file is replaced as a whole or not at all.
///
/// # Safety
/// `optimizer` is of `lion_new` and not freed. `path` is null or ends with a zero. `parameters` are readable, as long as the
/// first one says, and each has the memory that its length and dtype say, which nothing writes during the call.
LionStatus lion_save(struct LionOptimizer *optimizer,
                     const char *path,
                     const struct LionUpdate *parameters,
                     size_t n);

/// Goes on from a checkpoint of the same variables, and reads the parameters that are given from it, as `lion_save` takes
/// them. There may be none. The options stay those of this optimizer.
///
/// If it returns an error, nothing has been changed.
///
/// # Safety
/// As for `lion_save`, and each parameter is writable and used by nothing else during the call.
LionStatus lion_load(struct LionOptimizer *optimizer,
                     const char *path,
                     const struct LionUpdate *parameters,
                     size_t n);

/// Runs the work of calls on the host's threads, from the next call on; with a null function, on those of the library's own
/// pool again. `threads` is how many the host has. It changes no bit of a result.
///
/// A call asks for as many workers as the plan allows, and for none if handing the work over does not pay.
///
/// # Safety
/// `optimizer` is of `lion_new` and not freed. `function` does as `LionParallelFor` says, with `context`, until it is
/// replaced or the optimizer is freed, on any thread that calls the library.
LionStatus lion_set_parallel_for(struct LionOptimizer *optimizer,
                                 size_t threads,
                                 LionParallelFor function,
                                 void *context);

/// One step on tensors of the caller's, without an optimizer: the caller keeps the momentum. `options` has the
/// hyperparameters, and may be null for the defaults; its `json` must be null. Threads may call it at the same time, on other
/// tensors: any cut of a tensor into ranges gives the same bits.
///
/// If it returns an error, nothing has been changed. Null, misaligned and overlapping tensors and wrong dtypes are found.
///
/// # Safety
/// `options` is null or readable for the size that it says, and so is its plan. `tensors` are readable, as long as the first
/// one says. Each tensor has the memory that its length and dtype say, is initialised where it is read, and is used by
/// nothing else during the call.
LionStatus lion_step(const struct LionOptions *options,
                     const struct LionStepTensors *tensors,
                     size_t n);

/// Turns memory of the caller's into huge pages where it lies, as far as the system lets it: Linux 6.1 and later at once, by
/// copying, an older one in the background, another system not at all. The contents stay as they are. A step on large
/// tensors then takes up to half the time. `pages` may be null.
///
/// # Safety
/// The memory is the caller's, for so many bytes. `pages` is null, or begins with its size and is writable for as many bytes.
LionStatus lion_advise_huge_pages(void *memory,
                                  size_t bytes,
                                  struct LionHugePages *pages);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* LION_H */
