"""Whether lists leave out the items that their user has: the rule, and how it is said."""

COMMON = 0.1  # share of repeats among the test targets from which lists keep seen items


def excludes_seen(repeat_share: float) -> bool:
    """The default of `--exclude_seen`. Where `repeat_share` of the test targets says that people
    come back to the same items, lists keep them."""
    return repeat_share < COMMON


def exclusion_text(repeat_share: float, excludes: bool) -> str:
    """What holds, and the share that the default depends on."""
    holds = "leave out" if excludes else "keep"
    flag = "--exclude_seen" if excludes else "--no-exclude_seen"
    return (
        f"lists {holds} what the user has ({flag}); {repeat_share:.1%} of the test targets are of "
        "an item the user had before"
    )
