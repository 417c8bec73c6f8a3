"""The index: every statement, the functions that compute it and the tests that hold it.

Tests are those in `tests/theory/`. What is a way of computing rather than a statement about
policies names its code and tests by their files, from `trpo_fast/` and `tests/`.
"""

from __future__ import annotations

from typing import NamedTuple


class Statement(NamedTuple):
    """A statement, and the names of its functions and of its tests, separated by spaces."""

    statement: str
    functions: str
    tests: str


STATEMENTS = (
    Statement(
        "Bellman: V, Q, A, visits and return of a policy",
        "mdp.state_values mdp.state_distribution",
        "test_values_satisfy_bellman test_distribution_is_the_discounted_sum_of_marginals",
    ),
    Statement(
        "Greedy improvement is finite and ends at the optimum",
        "mdp.policy_iteration",
        "test_policy_iteration_ends_at_the_best_of_all_deterministic_policies",
    ),
    Statement(
        "No state loses by its expected advantage: the return rises",
        "surrogate.expected_advantage",
        "test_a_nonnegative_expected_advantage_everywhere_improves",
    ),
    Statement(
        "Performance difference: eta' - eta = E' sum gamma^t A",
        "surrogate.performance_difference",
        "test_performance_difference_identity",
    ),
    Statement(
        "L agrees with eta in value and gradient, not beyond",
        "surrogate.surrogate",
        "test_surrogate_agrees_in_value_and_gradient test_surrogate_departs_at_second_order",
    ),
    Statement(
        "At pi' = pi the ratios cancel: their gradient is the policy gradient",
        "mdp.advantages",
        "test_the_gradient_of_the_ratios_is_that_of_the_log_probabilities",
    ),
    Statement(
        "Q in place of A adds a constant",
        "surrogate.value_surrogate",
        "test_q_in_place_of_a_adds_what_no_policy_changes",
    ),
    Statement(
        "Pinsker: TV^2 <= KL / 2",
        "bounds.pinsker_bound",
        "test_pinsker_and_its_weaker_form",
    ),
    Statement(
        "Two distributions can be coupled to agree with 1 - TV",
        "bounds.maximal_coupling",
        "test_maximal_coupling_has_the_margins_and_agrees_with_probability_one_minus_tv",
    ),
    Statement(
        "No mistake until t with (1 - epsilon)^t: P' = (1 - epsilon)^t P + the rest",
        "bounds.mistake_probability bounds.mistake_distribution",
        "test_without_a_mistake_the_states_are_the_old_ones "
        "test_the_mistakes_of_stochastic_policies_are_more_than_their_variation",
    ),
    Statement(
        "Drift at time t: 2 (1 - (1 - alpha)^t) <= 2 alpha t",
        "bounds.marginal_drift_bound",
        "test_state_drift_bounds_hold test_state_drift_bounds_are_attained",
    ),
    Statement(
        "Drift of the visits: 2 alpha gamma / (1 - gamma)",
        "bounds.discounted_drift_bound",
        "test_state_drift_bounds_hold test_state_drift_bounds_are_attained",
    ),
    Statement(
        "|E_p f - E_q f| <= |p - q|_1 max |f|",
        "bounds.expectation_gap_bound",
        "test_expectations_differ_by_the_variation_times_the_largest_value",
    ),
    Statement(
        "Swapping visits costs at most sum 2 epsilon t C",
        "bounds.lecture_error_bound",
        "test_the_lectures_sum_is_above_the_horizon_error",
    ),
    Statement(
        "Finite horizon, with gamma^t: swapping visits costs sum 2 alpha t gamma^t C",
        "bounds.horizon_error_bound",
        "test_finite_horizon_lecture_bound test_the_horizon_error_sums_to_the_penalty",
    ),
    Statement(
        "eta >= L - C alpha^2 >= L - C max KL, C = 4 epsilon gamma / (1 - gamma)^2",
        "bounds.lower_bounds",
        "test_lower_bounds_hold_in_order test_the_coupled_bound_is_attained "
        "test_the_constant_c_cannot_be_smaller",
    ),
    Statement(
        "Mixtures: the bound, the best alpha, the guaranteed gain",
        "conservative.mixture_bound conservative.best_mixture",
        "test_mixture_bound_holds test_mixture_bound_is_attained "
        "test_best_alpha_is_the_best_of_a_grid_and_its_gain_is_real",
    ),
    Statement(
        "Little greedy advantage means near optimal",
        "conservative.optimality_gap_bound",
        "test_small_greedy_advantage_means_near_optimal",
    ),
    Statement(
        "Conservative policy iteration improves as promised",
        "monotone.conservative_policy_iteration",
        "test_conservative_policy_iteration_keeps_its_promises",
    ),
    Statement(
        "Minorise-maximise: exact steps, monotone returns",
        "monotone.minorise_maximise",
        "test_returns_never_fall_and_rise_at_least_as_promised "
        "test_the_step_maximises_the_minoriser "
        "test_improvements_are_finitely_many_and_reach_the_optimum",
    ),
    Statement(
        "As a penalty, C takes tiny steps; a radius is chosen instead",
        "bounds.penalty_coefficient",
        "test_the_penalty_of_the_bound_takes_tiny_steps",
    ),
    Statement(
        "Mean KL stands in for max KL",
        "duality.average_kl bounds.max_kl",
        "test_mean_kl_stands_in_for_max_kl",
    ),
    Statement(
        "KL as constraint = KL as penalty; dual ascent finds lambda",
        "duality.dual_ascent duality.dual_value",
        "test_strong_duality test_dual_ascent_does_not_need_a_good_start "
        "test_no_feasible_policy_beats_the_constrained_one",
    ),
    Statement(
        "On a batch, policy and lambda take turns; or lambda goes up where the KL was too large",
        "updates/penalty.py:kl_penalty_update updates/multiplier.py:Penalty",
        "updates/test_penalty.py:test_the_dual_is_solved_on_every_batch "
        "updates/test_penalty.py:test_lambda_finds_the_trust_region_over_the_updates",
    ),
    Statement(
        "Plain gradient ascent is a trust region of the parameters: sqrt(eps / |g|^2) g",
        "duality.plain_step",
        "test_plain_step_meets_the_euclidean_ball",
    ),
    Statement(
        "Natural step length sqrt(2 eps / g' F^-1 g), not g' F g",
        "duality.natural_step",
        "test_quadratic_constraint_and_penalty_agree "
        "test_only_the_inverse_fisher_meets_the_kl_to_second_order",
    ),
    Statement(
        "Several updates on one batch: their KLs add up as lengths, not as numbers",
        "duality.natural_step",
        "test_two_updates_on_one_batch_add_up_as_lengths",
    ),
    Statement(
        "A trust region shrinks where its model is poor and grows where it is good",
        "train/kl_schedule.py:TrustRegion",
        "train/test_kl_schedule.py:test_the_region_follows_the_gain_over_the_predicted_one",
    ),
    Statement(
        "Policy gradient theorem",
        "natural.policy_gradient",
        "test_policy_gradient_theorem test_policy_gradient_against_finite_differences",
    ),
    Statement(
        "Average reward: stationary states, differential V and Q",
        "average.stationary_distribution average.average_reward average.differential_action_values",
        "test_the_stationary_distribution_is_where_all_marginals_go "
        "test_differential_values_are_the_sums_over_time "
        "test_the_average_reward_is_the_limit_of_means_and_of_discounted_returns",
    ),
    Statement(
        "Its policy gradient theorem",
        "average.average_reward_gradient",
        "test_average_reward_gradient_theorem",
    ),
    Statement(
        "Dropping gamma^t: the gradient of neither return, and near both as gamma goes to 1",
        "average.undiscounted_rows_gradient",
        "test_dropping_gamma_to_the_t_gives_neither_gradient_until_gamma_is_one "
        "test_rows_weighed_by_gamma_to_the_t_give_the_discounted_gradient",
    ),
    Statement(
        "The KL is flat at pi; its Hessian is the Fisher matrix, of rank S (A - 1)",
        "natural.fisher_matrix",
        "test_the_kl_is_flat_at_the_old_policy test_fisher_is_the_hessian_of_the_average_kl",
    ),
    Statement(
        "The Fisher matrix is not the Hessian of the return",
        "natural.return_hessian",
        "test_fisher_is_not_the_hessian_of_the_return",
    ),
    Statement(
        "From samples: the covariance of scores, or the Hessian of the KL",
        "updates/operator.py:FisherOperator",
        "core/test_fvp.py:test_equals_dense_fisher "
        "core/test_fvp.py:test_empirical_fisher_is_the_covariance_of_scores",
    ),
    Statement(
        "No unbiased estimate beats F^-1 / n (Cramer, Rao)",
        "estimators.cramer_rao_bound",
        "test_no_unbiased_estimate_beats_cramer_and_rao test_maximum_likelihood_tends_to_the_bound",
    ),
    Statement(
        "Compatible features: least squares = natural gradient",
        "natural.compatible_weights",
        "test_compatible_weights_are_the_natural_gradient",
    ),
    Statement(
        "Natural gradient of the tabular soft-max is the advantage",
        "natural.natural_gradient",
        "test_tabular_natural_gradient_is_the_advantage",
    ),
    Statement(
        "Large natural steps are greedy, small ones follow f",
        "natural.natural_ascent natural.greedy_limit",
        "test_large_natural_steps_tend_to_the_greedy_action "
        "test_large_plain_steps_need_not_be_greedy "
        "test_small_natural_steps_follow_the_compatible_values",
    ),
    Statement(
        "The natural gradient does not see the parametrisation",
        "natural.autograd_score",
        "test_natural_gradient_does_not_see_the_parametrisation",
    ),
    Statement(
        "F^-1 g from products alone, by conjugate gradient, with the step length; then a "
        "line search",
        "core/cg.py:cg core/reference.py:line_search",
        "core/test_cg.py:test_solves_the_dense_system "
        "core/test_cg.py:test_quad_equals_the_explicit_product "
        "updates/test_update.py:test_line_search_takes_the_first_acceptable",
    ),
    Statement(
        "Single path is unbiased; vine with an exact sum varies less",
        "estimators.single_path_estimate",
        "test_single_paths_are_unbiased "
        "test_vine_with_an_exact_sum_has_less_variance_than_a_single_path",
    ),
    Statement(
        "Vine: exact sum, importance weights of any q, self-normalised",
        "estimators.exact_sum estimators.importance_estimate estimators.self_normalised_estimate",
        "test_importance_estimates_are_unbiased_and_average_out "
        "test_self_normalised_estimates_are_biased_but_consistent "
        "test_self_normalised_estimates_need_no_baseline "
        "train/test_vine_actions.py:test_self_normalised_groups_tend_to_the_exact_sum",
    ),
    Statement(
        "One-dimensional regulator: return, gradient, Fisher",
        "lqr.lqr_return lqr.lqr_gradient lqr.lqr_fisher",
        "test_return_is_the_sum_over_time test_gradient_is_exact "
        "test_fisher_is_the_covariance_of_scores",
    ),
    Statement(
        "Its optimal gain is Riccati's, -0.588 at gamma 0.9",
        "lqr.optimal_gain",
        "test_optimal_gain_is_riccatis_and_a_stationary_maximum "
        "test_the_optimum_is_not_the_notes_minus_one",
    ),
    Statement(
        "Why plain ascent stalls and the natural one does not",
        "lqr.lqr_natural_gradient",
        "test_natural_gradient_does_not_depend_on_where_the_states_are "
        "test_shrinking_noise_starves_the_plain_gradient_of_the_gain_only",
    ),
)
