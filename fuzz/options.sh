# To be sourced in the workspace's root: `options_of TARGET` puts libFuzzer's options of a target into the array `options`.

options_of() {
    mkdir -p "fuzz/artifacts/$1"
    # The targets themselves allow reading a second of the processor's time; the timeout is for a machine that does other
    # work too.
    options=(-timeout=30 -rss_limit_mb=2048 -print_final_stats=1 "-artifact_prefix=fuzz/artifacts/$1/")
    case $1 in
    checkpoint_load | replay_input) options+=(-dict=fuzz/dictionaries/tensor_file.dict) ;;
    checkpoint_index) options+=(-dict=fuzz/dictionaries/checkpoint_index.dict) ;;
    keras_config) options+=(-dict=fuzz/dictionaries/keras_config.dict) ;;
    profile_parse) options+=(-dict=fuzz/dictionaries/profile.dict) ;;
    # Weighing inputs by how rare what they reach is takes most of the time where an input reaches thousands of places.
    step_vs_reference | optimizer_vs_model) options+=(-entropic=0) ;;
    esac
}
