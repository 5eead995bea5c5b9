# Defines `options_of TARGET`, which sets the array `options` to the libFuzzer options of a target. Source it in the
# workspace's root.

options_of() {
    mkdir -p "fuzz/artifacts/$1"
    # The targets themselves limit reading to one second of processor time. The timeout is longer, because the machine
    # may be busy.
    options=(-timeout=30 -rss_limit_mb=2048 -print_final_stats=1 "-artifact_prefix=fuzz/artifacts/$1/")
    case $1 in
    checkpoint_load | replay_input) options+=(-dict=fuzz/dictionaries/tensor_file.dict) ;;
    checkpoint_index) options+=(-dict=fuzz/dictionaries/checkpoint_index.dict) ;;
    keras_config) options+=(-dict=fuzz/dictionaries/keras_config.dict) ;;
    profile_parse) options+=(-dict=fuzz/dictionaries/profile.dict) ;;
    # These inputs reach thousands of coverage points. Entropic scheduling would take most of the time.
    step_vs_reference | optimizer_vs_model) options+=(-entropic=0) ;;
    esac
}
