/* The Lion optimizer on a program's own memory, with the same bits on every machine.
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
 * Every function except lion_abi_version and lion_last_error returns LION_OK, which is 0, or a negative LionStatus. After an
 * error it has done nothing, unless its documentation says otherwise. No function exits, prints, or lets a panic out.
 *
 * Every struct except LionBlock begins with struct_size, which the caller sets to sizeof. A newer library then knows which
 * fields the program lacks. Unused fields are zero, except in LionOptions, which lion_options_init fills in.
 *
 * One thread at a time may use an optimizer; different optimizers are independent. The library checks its arguments as far as
 * it can; each function lists under "Safety" what the caller must uphold.
 */


#ifndef LION_H
#define LION_H

#include <stddef.h>
#include <stdint.h>

/// The version of the ABI that this header describes. It grows when a function, a constant, or a field at the end of a struct is
/// added. Any other change gives the library a new name.
#define LION_ABI_VERSION 1

/// IEEE binary32.
#define LION_F32 1

/// IEEE binary16.
#define LION_F16 2

/// bfloat16, the upper half of an IEEE binary32.
#define LION_BF16 3

/// A value of `weight_decay`: none. A weight decay of 0 is different: it turns a parameter of -0 into +0.
#define LION_OFF -1.0

/// An outcome: there was no step yet, or it named no variable.
#define LION_NOTHING 0

/// An outcome: the step updated the parameters.
#define LION_UPDATED 1

/// An outcome: the step added the gradients to the accumulators.
#define LION_ACCUMULATED 2

/// An outcome: only variables that are overwritten with their gradient had a gradient.
#define LION_OVERWRITTEN 3

/// An outcome: a gradient was not finite. The dynamic loss scale was halved, and nothing else changed.
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

/// The elements of a block of statistics. Block `i` of a variable begins at element `4096 * i`; the last may be shorter.
#define LION_BLOCK 4096

/// An optimizer. One call at a time may use it; a second call at the same time returns `LION_ERROR_BUSY`.
typedef struct LionOptimizer LionOptimizer;

/// The result of a function: `LION_OK`, or a negative number for the kind of error. `lion_last_error` has the message. A
/// number keeps its meaning in all versions; later versions may add numbers.
typedef int32_t LionStatus;

/// How the work of a call is split and where it runs. A field of zero is taken from the profile that `lion tune` has written
/// for this machine, or else from the defaults. Results do not depend on any field.
typedef struct LionPlan {
    /// `sizeof(LionPlan)`.
    size_t struct_size;
    /// The instruction set: "scalar", "avx2", "avx512", "avx512bf16", "neon", or "auto" for the fastest on this machine.
    const char *isa;
    /// The largest number of threads that share a call.
    size_t threads;
    /// Elements of a chunk of work, in whole blocks of 4,096.
    size_t chunk_elements;
    /// A call whose tensors have fewer bytes stays on the calling thread. If this is given, one plan holds for all work, and
    /// no profile is read.
    size_t parallel_threshold;
} LionPlan;

/// Options of an optimizer: the common few as fields, all others by name. `lion_options_init` fills in the defaults.
typedef struct LionOptions {
    /// `sizeof(LionOptions)`.
    size_t struct_size;
    /// The learning rate, in [0, inf): how far a step moves each element. 0.001 by default.
    double learning_rate;
    /// The share of the old momentum in the direction of a step, in (0, 1]; 0.9 by default.
    double beta_1;
    /// The share of the old momentum in the new one, in [0, 1]; 0.99 by default.
    double beta_2;
    /// Decoupled weight decay, in [0, inf), or `LION_OFF`, the default.
    double weight_decay;
    /// All other options by name, as a JSON object such as
    /// `{"global_clipnorm": 1, "momentum_dtype": "bf16", "exclude_from_weight_decay": ["bias$"]}`. It may also have the options
    /// of the fields above, as numbers or as schedules in Keras's form: `{"learning_rate": {"class_name": "CosineDecay",
    /// "config": {"initial_learning_rate": 0.001, "decay_steps": 10000}}}`. They override the fields. Null for none.
    const char *json;
    /// How work is split and where it runs; null for the profile that `lion tune` has written on this machine, or else the
    /// defaults. Results do not depend on it.
    const struct LionPlan *plan;
} LionOptions;

/// A group of the optimizer that added it: its number in the order of adding, from 1. 0 is the optimizer's own
/// hyperparameters.
typedef uint64_t LionGroup;

/// Options of one variable. Zero is the default of each.
typedef struct LionVariableOptions {
    /// `sizeof(LionVariableOptions)`.
    size_t struct_size;
    /// The momentum's dtype; 0 for the option `momentum_dtype`, or else the parameter's dtype.
    uint32_t momentum_dtype;
    /// Other than 0: no weight decay for this variable, whatever its name.
    uint32_t exclude_from_weight_decay;
    /// Other than 0: the gradient is the variable's new value, as with Keras's `overwrite_with_gradient`.
    uint32_t overwrite_with_gradient;
    /// Other than 0: leaves the variable out of `stochastic_rounding` and `split_master`, which are for bf16 alone.
    uint32_t nearest_rounding;
    /// A shard: the optimizer keeps the state of the elements from `shard_start` to before `shard_end`, in row-major order,
    /// and parameters and gradients come by ranges within it. Both 0 for all elements.
    size_t shard_start;
    /// The end of the shard. A shard without elements begins and ends at the variable's end.
    size_t shard_end;
    /// Whose hyperparameters the variable has: a group of `lion_add_group`, or 0, the optimizer's own.
    LionGroup group;
    /// A constraint that the parameter is made to fulfil after each step in which it has a gradient, as JSON that
    /// `keras.constraints.serialize` writes: `{"class_name": "MaxNorm", "config": {"max_value": 2, "axis": 0}}`; also
    /// `NonNeg`, `UnitNorm` and `MinMaxNorm`. An `axis` of null is one norm over all elements. Null for none.
    const char *constraint;
} LionVariableOptions;

/// A variable of one optimizer: its number in the order of registration, from 0.
typedef uint64_t LionVariable;

/// A variable's tensors in one call: the parameter, which the call updates, and its gradient. Unused fields are zero.
typedef struct LionUpdate {
    /// `sizeof(LionUpdate)`.
    size_t struct_size;
    /// The variable.
    LionVariable variable;
    /// The parameter, of the variable's dtype.
    void *parameter;
    /// The gradient; null if the variable has none in this call. Then only its moving average changes, if it has one.
    const void *gradient;
    /// The number of elements of each tensor: that of the variable's shape, or of the range.
    size_t len;
    /// The dtype of `parameter` and `source`: `LION_F32`, `LION_F16` or `LION_BF16`.
    uint32_t parameter_dtype;
    /// The gradient's dtype; ignored without a gradient.
    uint32_t gradient_dtype;
    /// The tensors are the variable's elements from `range_start` to before `range_end`, in row-major order. Both 0 for all.
    size_t range_start;
    /// The end of the range.
    size_t range_end;
    /// The parameter is read from here and written to `parameter`. Null to update it in place.
    const void *source;
    /// The stored parameter after the call is also written here, in any dtype. Null for no copy.
    void *copy;
    /// The dtype of `copy`; ignored without a copy.
    uint32_t copy_dtype;
    /// Zero.
    uint32_t reserved;
} LionUpdate;

/// Metrics of the last step, and the learning rate and loss scale of the next. Metrics cost nothing: a value that the step did
/// not need is unknown. Then its bit in `known` is 0, and so is the field.
typedef struct LionMetrics {
    /// `sizeof(LionMetrics)`, which the caller sets.
    size_t struct_size;
    /// The outcome of the last step: `LION_NOTHING`, `LION_UPDATED` or another outcome.
    uint32_t outcome;
    /// Which fields are known: the sum of some `LION_KNOWS_...`.
    uint32_t known;
    /// The learning rate of the last step.
    float learning_rate;
    /// The divisor of the gradients, if the loss is scaled.
    float loss_scale;
    /// The L2 norm of all gradients before clipping: known with `clipnorm`, `global_clipnorm` and dynamic loss scaling.
    float gradient_norm;
    /// The norm after clipping: unknown with `clipvalue`.
    float clipped_norm;
    /// 1 if clipping changed a gradient by more than rounding.
    uint32_t clipped;
    /// The learning rate of the next step.
    float next_learning_rate;
    /// The factor for the loss of the next step; 1 without a loss scale.
    float next_loss_scale;
    /// Zero.
    uint32_t reserved;
    /// The number of elements of the gradients that were infinite or NaN.
    uint64_t non_finite;
    /// The steps so far, without those that a dynamic loss scale skipped: the number that schedules get in the next step.
    uint64_t iterations;
} LionMetrics;

/// A gradient, or a range of one, to be measured before its step.
typedef struct LionGradient {
    /// `sizeof(LionGradient)`.
    size_t struct_size;
    /// The variable.
    LionVariable variable;
    /// The gradient.
    const void *gradient;
    /// Its number of elements: that of the variable's shape, or of the range.
    size_t len;
    /// Its dtype.
    uint32_t gradient_dtype;
    /// Zero.
    uint32_t reserved;
    /// The gradient is that of the variable's elements from `range_start` to before `range_end`: multiples of 4,096, or the
    /// variable's end. Both 0 for all elements.
    size_t range_start;
    /// The end of the range.
    size_t range_end;
} LionGradient;

/// The statistics of one block of a gradient. It is plain data of this size in all versions, without `struct_size`: an array
/// may be sent as bytes to another process on a machine of the same byte order.
typedef struct LionBlock {
    /// The sum of the squares of the elements, divided by the loss scale and averaged but not clipped: 0 or more, and
    /// infinite or NaN if an element is.
    double sum_of_squares;
    /// How many elements are infinite or NaN, at most 4,096.
    uint64_t non_finite;
    /// The largest magnitude among the finite elements, divided and averaged but not clipped: 0 or more.
    float max_abs;
    /// 1 if the block has been measured. If not, 0, and so are the other fields.
    uint32_t measured;
} LionBlock;

/// How a step begins. Zero is the default of each field.
typedef struct LionBegin {
    /// `sizeof(LionBegin)`.
    size_t struct_size;
    /// Other than 0: only variables that are overwritten with their gradient will have a gradient.
    uint32_t only_overwrites;
    /// Other than 0: other optimizers hold other shards of the variables. The step then counts even if this optimizer gets no
    /// gradient.
    uint32_t elsewhere;
} LionBegin;

/// A range of a variable's elements.
typedef struct LionRange {
    /// `sizeof(LionRange)`, which the caller sets.
    size_t struct_size;
    /// The variable.
    LionVariable variable;
    /// The first element, in row-major order.
    size_t start;
    /// The end of the range.
    size_t end;
} LionRange;

/// A share of the library's work: `run(work, index)` does that of worker `index`.
typedef void (*LionWork)(void *work, size_t index);

/// The host's parallel-for: it calls `run(work, 0)` to `run(work, n - 1)`, on any threads, and returns when all have returned.
/// `context` is that of `lion_set_parallel_for`.
///
/// A worker may run twice or not at all: the calling thread does what is left when the function returns. The function must
/// neither throw nor jump out, and must not use `work` after it has returned. Calls that it makes on the same optimizer return
/// `LION_ERROR_BUSY`.
typedef void (*LionParallelFor)(void *context, size_t n, LionWork run, void *work);

/// The tensors of one step of `lion_step`, all of the same length. Unused fields are zero.
typedef struct LionStepTensors {
    /// `sizeof(LionStepTensors)`.
    size_t struct_size;
    /// The parameter, which the step updates.
    void *parameter;
    /// The gradient.
    const void *gradient;
    /// The momentum, which the step updates; zero before the first step.
    void *momentum;
    /// The number of elements of each tensor.
    size_t len;
    /// The dtype of `parameter` and `source`: `LION_F32`, `LION_F16` or `LION_BF16`.
    uint32_t parameter_dtype;
    /// The gradient's dtype, any.
    uint32_t gradient_dtype;
    /// The momentum's dtype, any.
    uint32_t momentum_dtype;
    /// The dtype of `copy`; ignored without a copy.
    uint32_t copy_dtype;
    /// The parameter is read from here and written to `parameter`. Null to update it in place.
    const void *source;
    /// The stored parameter after the step is also written here. Null for no copy.
    void *copy;
} LionStepTensors;

/// The result of `lion_advise_huge_pages`.
typedef struct LionHugePages {
    /// `sizeof(LionHugePages)`, which the caller sets.
    size_t struct_size;
    /// The number of pages of 2 MiB that lie wholly within the memory.
    size_t whole;
    /// The number of them that are huge pages now.
    size_t collapsed;
    /// 1 if the system was asked to convert the others in the background.
    size_t advised;
} LionHugePages;

/// Success.
#define LION_OK 0

/// An option or an argument outside its range or of another type, or options that exclude each other.
#define LION_ERROR_VALUE -1

/// A name or number of something that does not exist, or a name that is taken.
#define LION_ERROR_NAME -2

/// A malformed text or file.
#define LION_ERROR_FORMAT -3

/// A tensor whose shape, length or dtype is not its variable's, or that overlaps another tensor.
#define LION_ERROR_TENSOR -4

/// A step out of order, or variables that a call lacks, must not have, or has twice.
#define LION_ERROR_STEP -5

/// A checkpoint of another optimizer.
#define LION_ERROR_STATE -6

/// A file that cannot be read or written.
#define LION_ERROR_IO -7

/// Out of memory.
#define LION_ERROR_MEMORY -8

/// A valid request that this machine, this version, or an optimizer that is already built does not support.
#define LION_ERROR_UNSUPPORTED -9

/// A null or misaligned pointer, or memory that would exceed the address space.
#define LION_ERROR_POINTER -50

/// Another call on the same optimizer is running: on another thread, or the one that called the host's parallel-for.
#define LION_ERROR_BUSY -51

/// A bug in the library: a call panicked. The optimizer's state is unknown, and every later call on it except `lion_free`
/// returns this too.
#define LION_ERROR_PANIC -100

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/// Returns the ABI version of the loaded library. A program can use the library if this is at least the `LION_ABI_VERSION` that
/// the program was compiled with.
uint32_t lion_abi_version(void);

/// Returns the message of the last call on this thread that failed, in UTF-8; empty if none has failed. A message has at
/// most 1,023 bytes; a longer one is truncated.
///
/// The pointer is the same for all calls on a thread, and valid until the thread ends. The next call on the thread that
/// fails overwrites the text. A call that succeeds does not change it.
const char *lion_last_error(void);

/// Sets how the work of calls is split and where it runs, from the next call on. Results do not depend on it. Null for the
/// profile that `lion tune` has written on this machine, or else the defaults.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `plan` is null or readable for the size that it says;
/// its `isa` ends with a zero.
LionStatus lion_set_plan(struct LionOptimizer *optimizer,
                         const struct LionPlan *plan);

/// Writes the default options. `struct_size` is `sizeof(LionOptions)`.
///
/// # Safety
/// `options` is writable for `struct_size` bytes.
LionStatus lion_options_init(struct LionOptions *options, size_t struct_size);

/// Makes an optimizer with these options; null for the defaults. `lion_free` frees it.
///
/// # Safety
/// `options` is null or readable for the size that it says; its texts end with a zero. `optimizer` is null or writable.
LionStatus lion_new(const struct LionOptions *options,
                    struct LionOptimizer **optimizer);

/// Makes an optimizer from Keras's JSON: that of `optimizer.get_config()` or `keras.optimizers.serialize(optimizer)`, of a
/// `LossScaleOptimizer` around it, or of a model with its optimizer.
///
/// # Safety
/// `json` is null or a text that ends with a zero. `optimizer` is null or writable.
LionStatus lion_new_from_config(const char *json,
                                struct LionOptimizer **optimizer);

/// Frees an optimizer. Null is allowed. If another call uses the optimizer, the result is `LION_ERROR_BUSY` and the optimizer
/// stays.
///
/// # Safety
/// `optimizer` is null, or from `lion_new` and not freed; no call uses it from now on.
LionStatus lion_free(struct LionOptimizer *optimizer);

/// Sets an option by its name, from the next step on. `learning_rate`, `beta_1`, `beta_2`, `weight_decay`, `cautious_decay` and
/// `decay_scale` may change; the other options are fixed once the optimizer is made, and setting them is an error. The value is
/// JSON: a number, a string, `true` or `false`, `null` for off, or a schedule as Keras serializes it.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. The texts are null or end with a zero.
LionStatus lion_set(struct LionOptimizer *optimizer,
                    const char *name,
                    const char *value);

/// Sets the learning rate from the next step on, in [0, inf). It replaces a schedule.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed.
LionStatus lion_set_learning_rate(struct LionOptimizer *optimizer, double learning_rate);

/// Adds a group of hyperparameters for `LionVariableOptions`, and writes its number to `group`. `json` is an object of those
/// that differ from the optimizer's own, such as `{"learning_rate_multiplier": 0.1, "weight_decay": null}`: also `beta_1`,
/// `beta_2`, `cautious_decay` and `decay_scale`. A weight decay of null is none. `beta_1`, `beta_2` and `weight_decay` may be
/// schedules, as in `lion_set`.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `json` is null or ends with a zero. `group` is null or writable.
LionStatus lion_add_group(struct LionOptimizer *optimizer,
                          const char *json,
                          LionGroup *group);

/// Replaces a group's hyperparameters from the next step on, with an object as in `lion_add_group`: what it leaves out is the
/// optimizer's own. Those of group 0 apply to the variables of no other group.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `json` is null or ends with a zero.
LionStatus lion_set_group(struct LionOptimizer *optimizer,
                          LionGroup group,
                          const char *json);

/// Adds a variable with zero state, and writes its number to `variable`. `shape` has `rank` dimensions; a scalar has none.
/// Checkpoints identify the variable by its name, in UTF-8. `options` may be null.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `name` is null or ends with a zero; `shape` is null or readable for `rank`
/// dimensions; `options` is null or readable for the size that it says, and its text ends with a zero; `variable` is null or
/// writable.
LionStatus lion_register(struct LionOptimizer *optimizer,
                         const char *name,
                         const size_t *shape,
                         size_t rank,
                         uint32_t dtype,
                         const struct LionVariableOptions *options,
                         LionVariable *variable);

/// Applies gradients to variables, each at most once and in any order: a whole step. `lion_metrics` tells what it did. With
/// `n` = 0 nothing happens.
///
/// With a moving average, a call must name every variable; one without a gradient has a null `gradient`.
///
/// If it returns an error, nothing has changed. It finds null, misaligned and overlapping tensors, a wrong dtype, length or
/// range, an unknown variable, and a variable that is named twice.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `updates` is readable for `n` structs, each as long as the first one says. Each
/// tensor has the memory that its length and dtype say, is initialised if it is read, and nothing else uses it during the
/// call.
LionStatus lion_apply(struct LionOptimizer *optimizer,
                      const struct LionUpdate *updates,
                      size_t n);

/// Overwrites each parameter with its moving average, at the end of training, as Keras's `finalize_variable_values`. Every
/// variable must be named. Gradients are ignored, and no step is counted.
///
/// # Safety
/// As for `lion_apply`.
LionStatus lion_finalize(struct LionOptimizer *optimizer,
                         const struct LionUpdate *updates,
                         size_t n);

/// Writes the metrics of the last step, by `lion_apply` or `lion_finish`, and the numbers that the next one begins with.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `metrics` is null, or begins with its size and is writable for as many bytes.
LionStatus lion_metrics(struct LionOptimizer *optimizer,
                        struct LionMetrics *metrics);

/// Measures gradients for the next step: clipping by a norm and a dynamic loss scale need their statistics before the first
/// part. Several calls may measure different gradients. `lion_begin` uses the statistics up; any other step and a change of
/// the variables discard them.
///
/// If it returns an error, nothing has been added. It finds gradients that do not fit, elements that have been measured
/// before, and a range that cuts a block of 4,096 elements.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `gradients` is readable for `n` structs, each as long as the first one says. Each
/// gradient has the memory that its length and dtype say, is initialised, and nothing writes it during the call.
LionStatus lion_measure(struct LionOptimizer *optimizer,
                        const struct LionGradient *gradients,
                        size_t n);

/// Writes the statistics of the blocks `first` to `first + n - 1` of a variable, as `lion_measure` and `lion_add_statistics`
/// have collected them for the next step. A variable has a block for each 4,096 elements of its shape, and for the rest, also
/// if the optimizer keeps a shard of it.
///
/// Between `lion_measure` and `lion_begin`, processes that hold shards exchange the blocks of theirs: each sends its own, and
/// gives those of the others to `lion_add_statistics`. All then clip alike, with the bits of one process.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `blocks` is writable for `n` blocks.
LionStatus lion_statistics(struct LionOptimizer *optimizer,
                           LionVariable variable,
                           size_t first,
                           struct LionBlock *blocks,
                           size_t n);

/// Adds the statistics of the blocks `first` to `first + n - 1` of a variable, which were measured elsewhere, to those for the
/// next step. Blocks whose `measured` is 0 are passed over.
///
/// If it returns an error, nothing has been added. These are found: an unknown variable, blocks beyond its last, numbers that
/// no block has, a block that has been measured or added before.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `blocks` is readable for `n` blocks.
LionStatus lion_add_statistics(struct LionOptimizer *optimizer,
                               LionVariable variable,
                               size_t first,
                               const struct LionBlock *blocks,
                               size_t n);

/// Begins a step. Any number of calls of `lion_part` follow, and `lion_finish` ends it. Hyperparameters, accumulation, loss
/// scale and clipping are decided here, from the statistics of `lion_measure` and `lion_add_statistics`. Any split into parts
/// gives the bits of one `lion_apply`. `options` may be null.
///
/// Until the step is finished or abandoned, other steps and `lion_register`, `lion_save` and `lion_load` return
/// `LION_ERROR_STEP`.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `options` is null or readable for the size that it says.
LionStatus lion_begin(struct LionOptimizer *optimizer,
                      const struct LionBegin *options);

/// Applies the open step to these variables, or to ranges of them.
///
/// If it returns an error, nothing has changed, and the step is still open. It finds what `lion_apply` finds, elements that an
/// earlier part had, and gradients without the statistics that the step needs.
///
/// # Safety
/// As for `lion_apply`.
LionStatus lion_part(struct LionOptimizer *optimizer,
                     const struct LionUpdate *updates,
                     size_t n);

/// Ends the open step, and counts it; `lion_metrics` tells what it did. Elements that no part had count as ones without a
/// gradient. A step without any part is not counted.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed.
LionStatus lion_finish(struct LionOptimizer *optimizer);

/// Abandons the open step, if there is one: the next step gets its number. What its parts have written stays written. The
/// number of written ranges goes to `ranges`, which may be null; `lion_abandoned_range` returns each.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `ranges` is null or writable.
LionStatus lion_abandon(struct LionOptimizer *optimizer,
                        size_t *ranges);

/// Writes one of the ranges that the last abandoned step had written: their elements and state are as after that step.
/// `index` is less than the number from `lion_abandon`.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `range` is null, or begins with its size and is writable for as many bytes.
LionStatus lion_abandoned_range(struct LionOptimizer *optimizer,
                                size_t index,
                                struct LionRange *range);

/// Writes a checkpoint: the optimizer's state, and the given parameters, if any. Of each, only `variable`, `parameter`,
/// `parameter_dtype` and `len` are used. The file is replaced atomically. Groups and constraints are not part of it.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `path` is null or ends with a zero. `parameters` is readable for `n` structs,
/// each as long as the first one says. Each parameter has the memory that its length and dtype say, and nothing writes it
/// during the call.
LionStatus lion_save(struct LionOptimizer *optimizer,
                     const char *path,
                     const struct LionUpdate *parameters,
                     size_t n);

/// Restores the state from a checkpoint of the same variables, and reads the given parameters from it, if any. The options
/// stay those of this optimizer.
///
/// If it returns an error, nothing has changed.
///
/// # Safety
/// As for `lion_save`, and each parameter is writable, and nothing else uses it during the call.
LionStatus lion_load(struct LionOptimizer *optimizer,
                     const char *path,
                     const struct LionUpdate *parameters,
                     size_t n);

/// Runs the work of calls on the host's threads, from the next call on; with a null function, on the library's own pool again.
/// `threads` is the number of the host's threads. Results do not depend on it.
///
/// A call uses as many workers as the plan allows. It stays on the calling thread if more threads would not make it faster.
///
/// # Safety
/// `optimizer` is from `lion_new` and not freed. `function` does as `LionParallelFor` says, with `context`, until it is
/// replaced or the optimizer is freed, on any thread that calls the library.
LionStatus lion_set_parallel_for(struct LionOptimizer *optimizer,
                                 size_t threads,
                                 LionParallelFor function,
                                 void *context);

/// Does one step without an optimizer: the caller keeps the momentum. `options` has the hyperparameters, and may be null for
/// the defaults; its `json` must be null. Several threads may call it at the same time on different tensors. Any split of a
/// tensor into ranges gives the same bits.
///
/// If it returns an error, nothing has changed. It finds null, misaligned and overlapping tensors, and wrong dtypes.
///
/// # Safety
/// `options` is null or readable for the size that it says, and so is its plan. `tensors` is readable for `n` structs, each as
/// long as the first one says. Each tensor has the memory that its length and dtype say, is initialised if it is read, and
/// nothing else uses it during the call.
LionStatus lion_step(const struct LionOptions *options,
                     const struct LionStepTensors *tensors,
                     size_t n);

/// Turns the caller's memory into huge pages in place, as far as the system allows: Linux 6.1 and later at once, by copying;
/// older Linux in the background; other systems not at all. The contents do not change. A step on large tensors can then take
/// half the time. `pages` may be null.
///
/// # Safety
/// The caller owns the memory, for `bytes` bytes. `pages` is null, or begins with its size and is writable for as many bytes.
LionStatus lion_advise_huge_pages(void *memory,
                                  size_t bytes,
                                  struct LionHugePages *pages);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* LION_H */
