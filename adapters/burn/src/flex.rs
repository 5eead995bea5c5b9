//! The step on tensors of the Flex backend. Passes their memory to the kernels as slices.

use burn_core::backend::{DispatchDevice, Flex};
use burn_core::tensor::{DType, Tensor};
use burn_flex::FlexTensor;
use half::{bf16, f16};
use lion_autotune::{Dtypes, Operation, Profile};
use lion_kernels::{
    Backend, Error, GradientStatistics, GradientTransform, LionStep, StepTensors, Task, TensorMut, TensorRef,
    run,
};

/// Returns why the kernels cannot process these tensors, or `None` if they can.
pub(crate) fn refuses<const D: usize>(
    tensor: &Tensor<D>,
    grad: &Tensor<D>,
    momentum: Option<&Tensor<D>>,
) -> Option<String> {
    [("parameter", Some(tensor)), ("gradient", Some(grad)), ("momentum", momentum)]
        .into_iter()
        .filter_map(|(name, tensor)| Some((name, tensor?)))
        .find(|(_, tensor)| !takes(tensor))
        .map(|(name, tensor)| {
            let (device, dtype) = (tensor.device(), tensor.dtype());
            format!("the {name} is {dtype:?} on {device:?}, and the kernels take F32, F16 and BF16 on Flex")
        })
}

/// Makes one step and returns the parameter and the momentum. Requires tensors of one shape that [`refuses`] accepts.
pub(crate) fn step<const D: usize>(
    step: LionStep,
    profile: &Profile,
    tensor: Tensor<D>,
    grad: Tensor<D>,
    momentum: Option<Tensor<D>>,
) -> (Tensor<D>, Tensor<D>) {
    let gradient = in_order(primitive(grad));
    let mut parameter = in_order(primitive(tensor));
    let mut momentum = match momentum {
        Some(momentum) => in_order(primitive(momentum)),
        None => zeros_like(&parameter),
    };
    // The parameter is written in place if nothing else shares its memory.
    let mut moved = if parameter.is_unique() { None } else { Some(zeros_like(&parameter)) };
    let tensors = match &mut moved {
        None => slice_mut(&mut parameter)
            .zip(slice(&gradient))
            .zip(slice_mut(&mut momentum))
            .map(|((parameter, gradient), momentum)| StepTensors::in_place(parameter, gradient, momentum)),
        Some(moved) => {
            slice(&parameter).zip(slice_mut(moved)).zip(slice(&gradient)).zip(slice_mut(&mut momentum)).map(
                |(((from, to), gradient), momentum)| StepTensors::out_of_place(from, to, gradient, momentum),
            )
        }
    };
    // This cannot fail: `refuses` checked dtypes and devices, the optimizer checked the shapes, the backend is
    // available.
    match tensors.map(|tensors| run_step(profile, Task::step(step, tensors)?)) {
        Some(Ok(())) => {}
        failed => log::error!("a step was not made: {failed:?}"),
    }
    let parameter = moved.unwrap_or(parameter);
    (Tensor::from_primitive::<Flex>(parameter), Tensor::from_primitive::<Flex>(momentum))
}

/// Runs the task with the machine's plan for its dtypes and size.
fn run_step(profile: &Profile, task: Task<'_>) -> Result<(), Error> {
    let [parameter, gradient, momentum] = task.dtypes();
    let plan = profile.plan(Operation::Step, Dtypes { parameter, gradient, momentum }, task.bytes());
    run(plan, &mut [task])
}

/// Returns the gradient statistics of a tensor that [`refuses`] accepts, summed over the kernels' blocks.
pub(crate) fn measure<const D: usize>(backend: Backend, tensor: Tensor<D>) -> GradientStatistics {
    let tensor = in_order(primitive(tensor));
    match slice(&tensor)
        .map(|values| GradientStatistics::measure(backend, &GradientTransform::new(), values, None))
    {
        Some(Ok(found)) => found,
        failed => {
            log::error!("a gradient was not measured: {failed:?}");
            GradientStatistics::default()
        }
    }
}

/// Returns whether the kernels can process the tensor.
pub(crate) fn takes<const D: usize>(tensor: &Tensor<D>) -> bool {
    matches!(tensor.device().as_dispatch(), DispatchDevice::Flex(_))
        && matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16)
}

/// Returns the Flex tensor. Requires a float tensor on Flex, which device and dtype have shown.
fn primitive<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    tensor.try_into_primitive::<Flex>().expect("a float tensor on Flex")
}

/// Returns a contiguous tensor of the same elements. Most tensors already are.
fn in_order(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

fn zeros_like(tensor: &FlexTensor) -> FlexTensor {
    FlexTensor::zeros(tensor.layout().shape().clone(), tensor.dtype())
}

fn slice(tensor: &FlexTensor) -> Option<TensorRef<'_>> {
    match tensor.dtype() {
        DType::F32 => tensor.as_slice::<f32>().map(TensorRef::from),
        DType::F16 => tensor.as_slice::<f16>().map(TensorRef::from),
        DType::BF16 => tensor.as_slice::<bf16>().map(TensorRef::from),
        _ => None,
    }
}

/// Returns the elements of a contiguous tensor. If they are shared, they are copied first.
fn slice_mut(tensor: &mut FlexTensor) -> Option<TensorMut<'_>> {
    let (start, end) = tensor.layout().contiguous_offsets()?;
    match tensor.dtype() {
        DType::F32 => tensor.storage_mut::<f32>().get_mut(start..end).map(TensorMut::from),
        DType::F16 => tensor.storage_mut::<f16>().get_mut(start..end).map(TensorMut::from),
        DType::BF16 => tensor.storage_mut::<bf16>().get_mut(start..end).map(TensorMut::from),
        _ => None,
    }
}
