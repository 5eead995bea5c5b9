//! Clipping by the joint norm of all gradients of a module. burn's own clipping takes one tensor at a time.

use std::collections::HashSet;

use burn_core::module::{Module, ModuleVisitor, Param, ParamId};
use burn_core::tensor::{FloatDType, Tensor};
use burn_optim::GradientsParams;
use lion_kernels::{Backend, Clip, Error, GradientStatistics};

use crate::flex;

/// Gradients after clipping by their joint norm.
#[derive(Debug)]
pub struct Clipped {
    /// The gradients to pass to the optimizer.
    pub gradients: GradientsParams,
    /// The joint L2 norm before clipping.
    pub norm: f32,
}

/// Scales the gradients of a module down to a joint L2 norm of at most `limit`. Each gradient becomes
/// `g * (limit * min(1 / norm, 1 / limit))`, as with Keras's `global_clipnorm`. A non-finite norm makes every gradient
/// NaN.
///
/// On Flex, the squares are summed in f64 and in a fixed order, so the norm has the same bits on every machine. On
/// other backends, the backend sums them in f32. Clipping rounds a 16-bit gradient to its dtype once more.
///
/// ```
/// use burn::nn::{Linear, LinearConfig};
/// use burn::optim::GradientsParams;
/// use burn::tensor::{Device, Tensor};
/// use lion_burn::{LionConfig, clip_global_norm};
///
/// let device = Device::flex().autodiff();
/// let model: Linear = LinearConfig::new(4, 4).with_bias(false).init(&device);
/// let loss = model.forward(Tensor::<2>::ones([1, 4], &device)).sum();
/// let gradients = GradientsParams::from_grads(loss.backward(), &model);
/// let clipped = clip_global_norm(&model, gradients, 1.0)?;
/// assert_eq!(clipped.norm, 4.0);
/// let model = LionConfig::new().init().step(1e-3, model, clipped.gradients);
/// # Ok::<(), lion_kernels::Error>(())
/// ```
///
/// # Errors
/// [`Error::Hyperparameter`] if the limit is outside (0, inf).
pub fn clip_global_norm<M: Module>(
    module: &M,
    gradients: GradientsParams,
    limit: f64,
) -> Result<Clipped, Error> {
    if !(limit as f32 > 0.0 && limit.is_finite()) {
        return Err(Error::Hyperparameter { name: "limit", value: limit.to_string(), range: "(0, inf)" });
    }
    let backend = Backend::from_env()?;
    let mut measure = Measure {
        gradients: &gradients,
        backend,
        found: GradientStatistics::default(),
        seen: HashSet::new(),
    };
    module.visit(&mut measure);
    let norm = measure.found.norm();
    let Clip::Factor(factor) = Clip::global_norm(limit, norm) else {
        return Ok(Clipped { gradients, norm });
    };
    let left = measure.seen;
    let mut scale = Scale { gradients, factor, left };
    module.visit(&mut scale);
    Ok(Clipped { gradients: scale.gradients, norm })
}

/// Sums the squares, in the module's order.
struct Measure<'a> {
    gradients: &'a GradientsParams,
    backend: Backend,
    found: GradientStatistics,
    /// The parameters already counted. A module may contain a parameter twice.
    seen: HashSet<ParamId>,
}

impl ModuleVisitor for Measure<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !self.seen.insert(param.id) {
            return;
        }
        let Some(gradient) = self.gradients.get::<D>(param.id) else { return };
        let measured = if flex::takes(&gradient) {
            flex::measure(self.backend, gradient)
        } else {
            let squares = gradient.cast(FloatDType::F32).square().sum();
            GradientStatistics {
                sum_of_squares: squares.into_scalar::<f32>().into(),
                ..GradientStatistics::default()
            }
        };
        self.found = self.found.merge(&measured);
    }
}

struct Scale {
    gradients: GradientsParams,
    factor: f32,
    /// The parameters not yet scaled.
    left: HashSet<ParamId>,
}

impl ModuleVisitor for Scale {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !self.left.remove(&param.id) || self.factor == 1.0 {
            return;
        }
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            self.gradients.register(param.id, gradient.mul_scalar(self.factor));
        }
    }
}
