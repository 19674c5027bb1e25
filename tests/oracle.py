"""SyNCRec the slow, obvious way: a loop over users, domains and experts, one sequence at a time.

Reads the weights of a `models.SyNCRec` and nothing else of it; written from the equations of the
method with basic tensor operations, so that what the packed model shares with it is the method.
"""

import math

import torch
import torch.nn.functional as F


def expert_forward(experts, which, x):
    """One expert on one sequence [T, H]: post-norm layers, causal attention, GELU block."""
    for layer in experts.layers:
        attention = layer.attention
        joint = x @ attention.project_in.weight[which] + attention.project_in.bias[which]
        hidden = x.shape[1]
        size = hidden // experts.heads
        query, key, value = joint.split(hidden, dim=1)
        heads = []
        for head in range(experts.heads):
            part = slice(head * size, (head + 1) * size)
            scores = query[:, part] @ key[:, part].T / math.sqrt(size)
            later = torch.triu(torch.ones_like(scores, dtype=torch.bool), diagonal=1)
            heads.append(scores.masked_fill(later, -math.inf).softmax(-1) @ value[:, part])
        attended = torch.cat(heads, dim=1)
        attended = (
            attended @ attention.project_out.weight[which] + attention.project_out.bias[which]
        )
        x = norm(layer.attention_norm, which, x + attended)
        fed = F.gelu(x @ layer.widen.weight[which] + layer.widen.bias[which])
        fed = fed @ layer.narrow.weight[which] + layer.narrow.bias[which]
        x = norm(layer.output_norm, which, x + fed)
    return x


def norm(module, which, x):
    return F.layer_norm(x, x.shape[-1:], module.weight[which, 0], module.bias[which, 0])


def tower(towers, which, x):
    fed = F.gelu(x @ towers.first.weight[which] + towers.first.bias[which])
    fed = fed @ towers.second.weight[which] + towers.second.bias[which]
    return norm(towers.norm, which, x + fed)


def interval_bucket(times, position):
    """The start token, the same time, less than an hour or a day, then days doubled."""
    if position == 0:
        return 0
    seconds = times[position] - times[position - 1]
    if seconds < 86_400:
        return 1 + (seconds >= 1) + (seconds >= 3600)
    return min(4 + int(math.log2(seconds // 86_400)), 15)


def view_outputs(model, items, domains, times, task):
    """h before each of a sequence's events [T, H]; of one domain for the single view."""
    settings, own = model.settings, model.tasks[task]
    rows = []
    for position in range(len(items)):
        domain = domains[position]
        if position == 0:
            row = own.start[domain if task == "single" else 0]
        else:
            row = model.item_table[items[position - 1]]
        count = len(items) - 1 - position if settings.positions == "end" else position
        row = row + own.position[count]
        if settings.time_embedding == "interval":
            row = row + own.interval.weight[interval_bucket(times, position)]
        if task == "cross" and settings.target_domain_query:
            row = row + model.query[domain]
        rows.append(F.layer_norm(row, row.shape, own.norm.weight, own.norm.bias))
    x = torch.stack(rows)
    targets = domains  # of each event: whose gate and tower it gets
    if settings.share_experts or (task == "cross" and not settings.cross_per_domain):
        targets = [0] * len(domains)
    weights = torch.stack(
        [gate_weights(own.gate, which, x)[row] for row, which in enumerate(targets)]
    )
    mixture = torch.zeros_like(x)
    for number, (output, learns) in enumerate(all_experts(model, task, x)):
        weighted = weights[:, number, None] * (output if learns else output.detach())
        mixture = mixture + weighted
    if own.towers is None:
        return mixture
    return torch.stack(
        [tower(own.towers, which, mixture)[row] for row, which in enumerate(targets)]
    )


def gate_weights(gate, which, x):
    if not hasattr(gate, "weight"):  # no gate
        return torch.full((len(x), gate.experts), 1.0 / gate.experts, dtype=x.dtype)
    if gate.weight.dim() == 3:  # token gate [G, H, K]
        return (x @ gate.weight[which]).softmax(-1)
    flat = gate.weight[which, : len(x)].reshape(-1, gate.weight.shape[-1])  # [T·H, K]
    return (x.reshape(-1) @ flat).softmax(-1).expand(len(x), -1)


def all_experts(model, task, x):
    """(output, whether the task trains it) of every expert, CDSR's first."""
    settings = model.settings
    if settings.share_experts:
        for number in range(settings.experts):
            owner = "cross" if number < settings.experts_cross else "single"
            lone = settings.mode != "syncrec"
            yield expert_forward(model.experts["shared"], 0, x), lone or owner == task
        return
    for owner, experts in model.experts.items():
        for number in range(experts.stack):
            learns = owner == task or not settings.stop_gradient
            yield expert_forward(experts, number, x), learns


def losses(model, users, negatives, times):
    """l_single and l_cross of every event: {(user, t): (single, cross, h_single, h_cross)}.

    users: a list of (items, domains); negatives: {(user, t): item}; times: a list of their events'.
    """
    found = {}
    for user, (items, domains) in enumerate(users):
        cross = view_outputs(model, items, domains, times[user], "cross")
        single = [None] * len(items)
        for domain in sorted(set(domains)):
            places = [t for t in range(len(items)) if domains[t] == domain]
            own = [items[t] for t in places]
            own_times = [times[user][t] for t in places]
            outputs = view_outputs(model, own, [domain] * len(own), own_times, "single")
            for place, output in zip(places, outputs, strict=True):
                single[place] = output
        for t in range(len(items)):
            pair = [
                step_loss(model, output, items[t], domains[t], negatives[user, t])
                for output in (single[t], cross[t])
            ]
            found[user, t] = (*pair, single[t], cross[t])
    return found


def step_loss(model, output, item, domain, negative):
    if model.settings.loss == "bce":
        up, down = output @ model.item_table[item], output @ model.item_table[negative]
        return -torch.sigmoid(up).log() - (1 - torch.sigmoid(down)).log()
    first, end = model.item_starts[domain], model.item_starts[domain + 1]
    if model.settings.softmax_items == "all":
        first, end = 1, model.item_starts[-1]
    logits = model.item_table[first:end] @ output
    return -logits.log_softmax(0)[item - first]


def mim(model, users, found):
    """The mutual-information loss: a loop over domains and users."""
    terms = []
    for domain in range(len(model.item_starts) - 1):
        single, cross = [], []
        for user, (_, domains) in enumerate(users):
            places = [t for t in range(len(domains)) if domains[t] == domain]
            if len(places) >= 2:
                single.append(torch.stack([found[user, t][2] for t in places]).mean(0))
                cross.append(torch.stack([found[user, t][3] for t in places]).mean(0))
        if len(single) < 2:
            continue
        parts = []
        for anchor, vector in enumerate(single):
            scores = torch.stack([vector @ model.critics[domain] @ other for other in cross])
            parts.append(-(scores / model.settings.mim_temperature).log_softmax(0)[anchor])
        terms.append(torch.stack(parts).mean())
    return torch.stack(terms).mean() if terms else torch.zeros(())
