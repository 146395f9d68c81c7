"""Speculative decoding of mixture-of-experts models as MoESD has it (arXiv 2505.19645).

Only what follows from the workload: expected experts, tokens per expert and accepted tokens, and the
speed-up that given times make. Times come from a simulation or a measurement.
"""

from __future__ import annotations

import math

from neardata.arch.errors import InputError
from neardata.workloads.llm.routing import expected_active


def sigma(acceptance: float, gamma: int) -> float:
    """Tokens made of a round as a share of the gamma + 1 it could make:
    ``(1 - a**(gamma + 1)) / ((1 - a) (gamma + 1))``.

    >>> round(sigma(0.5, 2), 4)
    0.5833
    """
    _share("acceptance", acceptance)
    _drafted(gamma)
    if acceptance == 1.0:
        return 1.0
    return (1 - acceptance ** (gamma + 1)) / ((1 - acceptance) * (gamma + 1))


def tokens_per_round(acceptance: float, gamma: int) -> float:
    """Tokens that a round of gamma drafts makes on average: ``sigma (gamma + 1)`` (S / R in the paper).

    >>> tokens_per_round(0.5, 2)
    1.75
    """
    return sigma(acceptance, gamma) * (gamma + 1)


def active_experts(tokens: int, experts: int, top_k: int) -> float:
    """N(t): experts that t tokens activate together, ``E (1 - ((E - K) / E)**t)``.

    >>> round(active_experts(8, 64, 8), 1)
    42.0
    """
    return expected_active(experts, top_k, tokens)


def threshold_tokens(sparsity: float, tau: float = 0.95) -> int:
    """T_thres: tokens from which on a share ``tau`` of the experts is active,
    ``ceil(log_{1 - rho}(1 - tau))``.

    Args:
        sparsity: rho = K / E.

    >>> threshold_tokens(8 / 64)
    23
    """
    _share("sparsity", sparsity, empty=False)
    if not 0 < tau < 1:
        raise InputError(f"a share between 0 and 1, got {tau}", key="tau")
    if sparsity == 1.0:
        return 1
    return math.ceil(math.log(1 - tau) / math.log(1 - sparsity))


def tokens_per_expert(tokens: int, sparsity: float) -> float:
    """T_exp: tokens of an expert that is active, ``rho t / (1 - (1 - rho)**t)``.

    >>> tokens_per_expert(1, 0.125)
    1.0
    """
    _share("sparsity", sparsity, empty=False)
    if tokens < 1:
        raise InputError(f"at least one token, got {tokens}", key="tokens")
    if sparsity == 1.0:
        return float(tokens)
    return sparsity * tokens / -math.expm1(tokens * math.log1p(-sparsity))


def target_efficiency(decode_time: float, verify_time: float) -> float:
    """``T_T(B, 1) / T_T(B, gamma)``: what a step of the target takes for one token a sequence over what it
    takes to verify.

    >>> target_efficiency(10.0, 12.5)
    0.8
    """
    _time("decode_time", decode_time, positive=True)
    _time("verify_time", verify_time, positive=True)
    return decode_time / verify_time


def speed_up(
    *,
    tokens: float,
    gamma: int,
    decode_time: float,
    draft_time: float,
    verify_time: float,
    reject_time: float = 0.0,
) -> float:
    """Eq. 4: time of decoding without drafts over time with them, of the same tokens.

    Args:
        tokens: made of a round on average (`tokens_per_round`).
        decode_time: of a step of the target with one token a sequence, T_T(B, 1).
        draft_time: of one step of the draft, T_D(B, 1).
        verify_time: of a step of the target with gamma drafts, T_T(B, gamma).
        reject_time: of choosing what is accepted. All in one unit.

    >>> speed_up(tokens=3.0, gamma=4, decode_time=10.0, draft_time=0.5, verify_time=13.0)
    2.0
    """
    _drafted(gamma)
    if not 1 <= tokens <= gamma + 1:
        raise InputError(f"a round makes 1 to {gamma + 1} tokens, got {tokens}", key="tokens")
    _time("decode_time", decode_time, positive=True)
    for name, time in (
        ("draft_time", draft_time),
        ("verify_time", verify_time),
        ("reject_time", reject_time),
    ):
        _time(name, time)
    round_time = gamma * draft_time + verify_time + reject_time
    if not round_time:
        raise InputError("a round takes no time", key="verify_time")
    return tokens * decode_time / round_time


def _share(name: str, value: float, empty: bool = True) -> None:
    if not (value >= 0 if empty else value > 0) or not value <= 1:
        raise InputError(f"a share of at most 1, got {value}", key=name)


def _drafted(gamma: int) -> None:
    if gamma < 1:
        raise InputError(f"at least one drafted token, got {gamma}", key="gamma")


def _time(name: str, value: float, positive: bool = False) -> None:
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        raise InputError(f"a time{' above 0' if positive else ''}, got {value}", key=name)
