//! The step on tensors of the Flex backend: their memory as the kernels' slices.

use burn_core::backend::{DispatchDevice, Flex};
use burn_core::tensor::{DType, Tensor};
use burn_flex::FlexTensor;
use half::{bf16, f16};
use lion_autotune::{Dtypes, Operation, Profile};
use lion_kernels::{
    Backend, Error, GradientStatistics, GradientTransform, LionStep, StepTensors, Task, TensorMut, TensorRef,
    run,
};

/// Why the kernels cannot take these tensors, if so.
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

/// One step on tensors of one shape that [`refuses`] has nothing against. Gives the parameter and the momentum.
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
    // Written in place where nothing else has the memory.
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
    // `refuses` has seen formats and devices, the optimizer the shapes, and the backend is one of this machine.
    match tensors.map(|tensors| run_step(profile, Task::step(step, tensors)?)) {
        Some(Ok(())) => {}
        failed => log::error!("a step was not made: {failed:?}"),
    }
    let parameter = moved.unwrap_or(parameter);
    (Tensor::from_primitive::<Flex>(parameter), Tensor::from_primitive::<Flex>(momentum))
}

/// By the machine's plan for tensors like these.
fn run_step(profile: &Profile, task: Task<'_>) -> Result<(), Error> {
    let [parameter, gradient, momentum] = task.dtypes();
    let plan = profile.plan(Operation::Step, Dtypes { parameter, gradient, momentum }, task.bytes());
    run(plan, &mut [task])
}

/// The sum of squares of a tensor that [`refuses`] has nothing against, over the kernels' blocks.
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

/// Whether a tensor is one for the kernels.
pub(crate) fn takes<const D: usize>(tensor: &Tensor<D>) -> bool {
    matches!(tensor.device().as_dispatch(), DispatchDevice::Flex(_))
        && matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16)
}

/// Of a float tensor on Flex, as its device and format have said.
fn primitive<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    tensor.try_into_primitive::<Flex>().expect("a float tensor on Flex")
}

/// The same elements, one after the other. They mostly are.
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

/// The elements of a contiguous tensor, which are copied before where something else has them too.
fn slice_mut(tensor: &mut FlexTensor) -> Option<TensorMut<'_>> {
    let (start, end) = tensor.layout().contiguous_offsets()?;
    match tensor.dtype() {
        DType::F32 => tensor.storage_mut::<f32>().get_mut(start..end).map(TensorMut::from),
        DType::F16 => tensor.storage_mut::<f16>().get_mut(start..end).map(TensorMut::from),
        DType::BF16 => tensor.storage_mut::<bf16>().get_mut(start..end).map(TensorMut::from),
        _ => None,
    }
}
