"""Chooses the quick tier from measured CPU seconds, and writes tests/slow_cases.txt.

    python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --little-effort -m "not slow" --cpu-times build/times
    python tests/tiers.py build/times

A case is quick if it takes at most `CASE` CPU seconds; of each law (a test with its parameters left out) the cheapest
case if it takes at most `LAW`; and what `HEADLINES` names. What the measurement left out keeps its tier.
"""

from __future__ import annotations

import collections
import json
import pathlib
import sys

CASE, LAW = 0.3, 1.4
SLOW = pathlib.Path(__file__).parent / "slow_cases.txt"

# Laws that the quick tier proves at any cost, each by its cheapest case.
HEADLINES = {
    f"tests/test_{name}"
    for name in (
        "batch.py::test_the_file_is_the_same_calibrated_at_1_or_7",
        "cli.py::test_help_is_plain_in_a_pipe_and_names_every_command",
        "cli.py::test_interrupt",
        "cli.py::test_verify_on_floats_and_on_their_integers",
        "cli.py::test_version",
        "contract.py::test_a_file_whose_sums_pass_2_24_equals_training",
        "diff.py::test_op_by_op_gives_what_the_whole_gives",
        "diff.py::test_the_total_is_the_training_forward_less_the_float_reading",
        "dropout.py::test_training_has_the_sites_of_evaluation",
        "exact.py::test_every_integer_is_equal",
        "exact.py::test_every_integer_is_equal_after_training",
        "exact.py::test_every_recipe_is_exact",
        "exact.py::test_one_network_written_three_ways_is_one_artifact",
        "files.py::test_a_kill_at_any_step_leaves_no_torn_pair",
        "int8_training.py::test_nnx_linen_and_functions_compute_the_same",
        "islands.py::test_an_island_is_in_the_file",
        "laws.py::test_law_13_a_pass_changes_parameters_and_never_the_lowering",
        "laws.py::test_law_1_the_model_and_its_outputs_are_unchanged",
        "laws.py::test_law_2_every_integer_is_equal_and_every_tensor_is_one",
        "laws.py::test_law_3_what_has_no_range_is_refused_and_what_has_no_operator_is_listed",
        "laws.py::test_law_4_the_folded_graph_is_the_model",
        "laws.py::test_law_6_a_resumed_run_is_the_run",
        "laws.py::test_law_8_results_do_not_depend_on_the_batch",
        "load.py::test_batches_jit_and_vmap_agree",
        "load.py::test_every_tensor_equals_litert",
        "machines.py::test_training_follows_the_target_s_machine",
        "mobile.py::test_a_shallow_network_is_exact",
        "norm_follow.py::test_a_batch_that_is_first_seen_in_a_compiled_step_is_planned_with_numbers",
        "op_by_op.py::test_ops_whose_operands_share_scales_in_other_ways_are_two_functions",
        "optim.py::test_a_quantized_model_in_nnx_and_its_function_take_the_same_step",
        "precision.py::test_rules_mix_widths_and_the_file_converts_between_them",
        "random_networks.py::test_every_kind_of_op_can_be_drawn",
        "range_methods.py::test_methods_by_rule_train_and_the_file_is_exact",
        "readme.py::test_the_quickstart_runs_and_prints_what_it_says",
        "run.py::test_shapes_are_the_models",
        "sensitivity.py::test_the_table",
        "simulate.py::test_bfloat16_carriers_give_the_same_integers",
        "simulate.py::test_gradients_reach_weights_biases_and_ranges",
        "simulate.py::test_transformed_forwards_agree_bitwise",
        "tflm.py::test_every_tensor_of_a_chain",
    )
}


def law_of(case: str) -> str:
    """The test of a case, without its parameters."""
    return case.split("[")[0]


def slow_of(seconds: dict[str, float]) -> set[str]:
    """The cases that are left to `make test-all`."""
    laws: dict[str, list[str]] = collections.defaultdict(list)
    for case in sorted(seconds, key=lambda case: (seconds[case], case)):
        laws[law_of(case)].append(case)
    slow = {case for case, spent in seconds.items() if spent > CASE}
    for law, cases in laws.items():
        if seconds[cases[0]] <= LAW or law in HEADLINES:
            slow.discard(cases[0])
    return slow


def main(folder: pathlib.Path) -> None:
    """Write the file from every measurement in a folder."""
    lines = [json.loads(line) for file in folder.glob("*.jsonl") for line in file.read_text().splitlines()]
    seconds = {case: float(spent) for case, spent in lines}
    kept = set(SLOW.read_text().splitlines()) - seconds.keys()
    slow = slow_of(seconds)
    SLOW.write_text("".join(f"{case}\n" for case in sorted(kept | slow)))
    quick = sum(spent for case, spent in seconds.items() if case not in slow)
    print(f"{len(seconds) - len(slow)} quick cases of {quick:.0f} CPU seconds, {len(slow)} slow of those measured")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
