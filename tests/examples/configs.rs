//! Writes optimizer configs, to check that Keras reads them: `cargo run -p lion-tests --example configs > FILE`, then
//! `KERAS_BACKEND=numpy python tests/golden/configs.py FILE`.

use lion::schedule::{
    CosineDecay, CosineDecayRestarts, ExponentialDecay, InverseTimeDecay, PiecewiseConstantDecay,
    PolynomialDecay,
};
use lion::{Config, DynamicLossScale, Error};

fn main() -> Result<(), Error> {
    let configs: Vec<_> = configs()?.iter().map(Config::to_json).collect::<Result<_, _>>()?;
    println!("[{}]", configs.join(",\n"));
    Ok(())
}

fn configs() -> Result<Vec<Config>, Error> {
    let with = |set: &dyn Fn(&mut Config)| {
        let mut config = Config::default();
        set(&mut config);
        config
    };
    let schedules = [
        ExponentialDecay::new(1.0, 10.0, 0.5)?.staircase(true).into(),
        InverseTimeDecay::new(0.1, 0.5, 1.0)?.into(),
        PiecewiseConstantDecay::new([10.0, 20.5], [1.0, 0.5, 0.1])?.into(),
        PolynomialDecay::new(1.0, 10.0)?.power(2.0)?.cycle(true).into(),
        CosineDecay::new(0.0, 10.0)?.alpha(0.1)?.warmup(1.0, 5.0)?.into(),
        CosineDecay::new(1e-3, 1e15)?.into(),
        CosineDecayRestarts::new(1.0, 10.0)?.t_mul(1.0)?.m_mul(0.9)?.into(),
    ];
    let mut configs: Vec<_> = schedules
        .into_iter()
        .map(|schedule: lion::Schedule| with(&|config| config.learning_rate = schedule.clone().into()))
        .collect();
    configs.extend([
        Config::default(),
        with(&|config| {
            config.learning_rate = 1.0.into();
            config.beta_1 = 1.0.into();
            config.beta_2 = 0.0.into();
            config.weight_decay = Some(0.0.into());
            config.clipvalue = Some(1.0);
        }),
        with(&|config| {
            config.use_ema = true;
            config.ema_momentum = 1.0;
            config.ema_overwrite_frequency = Some(7);
            config.gradient_accumulation_steps = Some(4);
            config.loss_scale_factor = Some(128.0);
            config.global_clipnorm = Some(0.1);
        }),
        with(&|config| {
            config.name = "Zoë \"quoted\"".into();
            config.clipnorm = Some(1.5);
            config.loss_scale_factor = Some(128.0);
            config.dynamic_loss_scale = Some(DynamicLossScale::default());
        }),
    ]);
    Ok(configs)
}
