"""Makes one table of ratios from the measurements, with the target of each."""

MIB = 1 << 20
NAMES = {"torch": "PyTorch", "flat": "Strata", "tree": "Strata two levels", "int8": "the same, weights in int8"}


def markdown(found, median):
    """The tables as Markdown, and the ratios as data."""
    machine, speed, quality = found["machine"], found["speed"], found["quality"]
    targets = Targets()
    of = lambda name, key: median([r[name][key] for r in speed["rounds"] if r[name][key] is not None])  # noqa: E731
    names = list(speed["rounds"][0])
    saelens = of("SAELens TopK", "tokens_per_s")
    shape = speed["shape"]
    size = f"d = {shape['d']}, F = {shape['latents']}, k = {shape['k']}, batch {shape['batch']}"

    flat = of("Strata TopK", "tokens_per_s")
    targets.at_least(f"flat top-k training, {size}: tokens/s against SAELens", flat / saelens, 10)
    gated = of("Strata two levels, no ROOT", "gated_tokens_per_s")
    targets.at_least("training of two levels after gating, same total width: tokens/s against SAELens", gated / saelens, 25)
    theirs, ours = quality["found"]["SAELens TopK"], quality["found"]["Strata TopK"]
    targets.at_most("held-out FVU of flat top-k against SAELens', at the same learning rate", ours["fvu"] / theirs["fvu"], 1)
    rates = found["rates"]
    best = {who: min(row[who]["fvu"] for row in rates["rows"]) for who in ("Strata TopK", "SAELens TopK")}
    targets.at_most("the same, each at its best learning rate", best["Strata TopK"] / best["SAELens TopK"], 1)
    reached = seconds_to(ours["fvu_at_s"], theirs["fvu"])
    if reached is not None:
        targets.only("seconds until SAELens' last FVU is reached, same rate: SAELens' against ours", theirs["train_s"] / reached)

    rounds = found["encode"]["rounds"]
    for i, cell in enumerate(rounds[0]):
        rate = {who: median([r[i][who]["tokens_per_s"] for r in rounds]) for who in NAMES}
        where = f"n = {cell['n']}, d = {cell['d']}, F = {cell['latents']}"
        batch = cell["n"] > 1
        targets.at_least(f"encode, {where}: tokens/s against PyTorch", rate["flat"] / rate["torch"], 4 if batch else None)
        tree = f"encode of two levels, {cell['tree']['f1']} + {cell['tree']['f2']}, {where}"
        targets.at_least(f"{tree}: against PyTorch", rate["tree"] / rate["torch"], 20 if batch else None)
        targets.only("the same, its weights in int8", rate["int8"] / rate["torch"])
        if cell["d"] == 768:
            targets.at_least(f"{tree}: against our flat encode", rate["tree"] / rate["flat"], 8)

    q = quality["shape"]
    params = 2 * q["d"] * q["latents"] + q["latents"] + q["d"]
    bound = 16 * params + 64 * MIB + 16 * q["batch"] * q["d"]
    targets.at_most("peak memory of flat training against SAELens'", ours["peak_resident_bytes"] / theirs["peak_resident_bytes"], 1 / 3)
    formula = f"parameters x 16 bytes + 64 MiB + 16 bytes x batch x d = {bound / MIB:.0f} MiB"
    for what, name in (("flat training", "Strata TopK"), ("training two levels", "Strata two levels")):
        peak = quality["found"][name]["peak_resident_bytes"]
        targets.at_most(f"peak memory of {what} against {formula}", peak / bound, 1)

    text = ["# Strata beside its peers", "", *about(machine), "", "## Targets", "", *targets.rows()]
    text += ["", f"## Training: {size}", "", *training(names, of, speed)]
    q_size = f"d = {q['d']}, F = {q['latents']}, k = {q['k']}, batch {q['batch']}, {quality['steps']} steps at lr {q['lr']}"
    text += ["", f"## Whole trainings: {q_size}", "", *whole(quality, bound)]
    r = rates["shape"]
    r_size = f"d = {r['d']}, F = {r['latents']}, k = {r['k']}, batch {r['batch']}, {rates['steps']} steps"
    text += ["", f"## Learning rates: held-out FVU, {r_size}", "", *by_rate(rates)]
    text += ["", "## Encoding", "", *encoding(rounds, median, machine)]
    return "\n".join(text) + "\n", {"machine": machine, "targets": targets.list, "bound_bytes": bound}


class Targets:
    """Ratios, each with its target."""

    def __init__(self):
        self.list = []

    def at_least(self, what, ratio, target):
        self.add(what, ratio, target, ">=", target is not None and ratio >= target)

    def at_most(self, what, ratio, target):
        self.add(what, ratio, target, "<=", ratio <= target)

    def only(self, what, ratio):
        self.add(what, ratio, None, "", False)

    def add(self, what, ratio, target, sign, met):
        self.list.append({"what": what, "ratio": ratio, "target": target, "sign": sign, "met": met if target else None})

    def rows(self):
        yield "| what | ratio | target | |"
        yield "|---|---|---|---|"
        for t in self.list:
            target = f"{t['sign']} {t['target']:.3g}" if t["target"] else ""
            verdict = {True: "met", False: "not met", None: ""}[t["met"]]
            yield f"| {t['what']} | {t['ratio']:.3g} | {target} | {verdict} |"


def about(machine):
    torch = machine["torch"]
    yield f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads each, {machine['system']}."
    yield f"Strata computes with {machine['isa']}; multiply-adds in registers reach {machine['fma_peak_flop_per_s'] / 1e9:.0f} GFLOP/s."
    yield (
        f"sae-lens {torch['sae-lens']}, torch {torch['torch']} ({'; '.join(torch['config'])}), Python {torch['python']};"
        f" sgemm 1024 x 384 x 12288 reaches {torch['sgemm_flop_per_s'] / 1e9:.0f} GFLOP/s."
    )


def training(names, of, speed):
    yield "| trainer | tokens/s | after gating | cpu us per token | peak MiB | at the start |"
    yield "|---|---|---|---|---|---|"
    for name in names:
        row = speed["rounds"][0][name]
        gated = f"{of(name, 'gated_tokens_per_s'):,.0f}" if row.get("gated_tokens_per_s") else ""
        start = f"{row['resident_at_start_bytes'] / MIB:.0f}" if "resident_at_start_bytes" in row else ""
        yield (
            f"| {name} | {of(name, 'tokens_per_s'):,.0f} | {gated} | {of(name, 'cpu_us_per_token'):.1f} |"
            f" {of(name, 'peak_resident_bytes') / MIB:.0f} | {start} |"
        )
    yield ""
    yield (
        "Medians of steps and of rounds. At the start: what the process of Python has resident once its packages are imported."
        f" Two levels: {speed['parents']} parents, half of k each, families from co-firing in the first quarter of the steps."
    )


def whole(quality, bound):
    yield "| trainer | held-out FVU | seconds | tokens/s | cpu us per token | peak MiB | before saving |"
    yield "|---|---|---|---|---|---|---|"
    for name, row in quality["found"].items():
        before = f"{row['peak_before_saving_bytes'] / MIB:.0f}" if "peak_before_saving_bytes" in row else ""
        yield (
            f"| {name} | {row['fvu']:.4f} | {row['train_s']:.1f} | {row['tokens_per_s']:,.0f} | {row['cpu_us_per_token']:.1f} |"
            f" {row['peak_resident_bytes'] / MIB:.0f} | {before} |"
        )
    yield ""
    yield f"The bound is {bound / MIB:.0f} MiB. Strata's peak is that of its whole process, from start to end."


def by_rate(rates):
    yield "| rate | SAELens TopK | Strata TopK | seconds until SAELens' last FVU is reached: SAELens' / ours |"
    yield "|---|---|---|---|"
    for row in rates["rows"]:
        theirs, ours = row["SAELens TopK"], row["Strata TopK"]
        reached = seconds_to(ours["fvu_at_s"], theirs["fvu"])
        times = f"{theirs['train_s']:.1f} / {reached:.1f}" if reached is not None else "not reached"
        yield f"| {row['lr']:g} | {theirs['fvu']:.4f} | {ours['fvu']:.4f} | {times} |"
    yield ""
    yield (
        "Rows start at a tenth on both sides: SAELens' as they are, Strata's decoder rows, which keep norm 1, for the optimiser"
        " alone (`train.row_norm`)."
    )


def encoding(rounds, median, machine):
    yield "| encoder | n | d | latents | trained on, rows | tokens/s | us per call | L0 | threads | of the dense bound |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    peak = machine["fma_peak_flop_per_s"]
    for i, cell in enumerate(rounds[0]):
        for who, name in NAMES.items():
            row = cell[who]
            rate = median([r[i][who]["tokens_per_s"] for r in rounds])
            two = who in ("tree", "int8")
            latents = f"{row['f1']} + {row['f2']}" if two else cell["latents"]
            total = row["f1"] + row["f2"] if two else cell["latents"]
            l0 = sum(row["l0"]) if isinstance(row["l0"], list) else row["l0"]
            share = rate * 2 * cell["d"] * total / peak * machine["threads"] / row["threads"]
            yield (
                f"| {name} | {cell['n']} | {cell['d']} | {latents} | {row['trained_on']:,} | {rate:,.0f} | {cell['n'] / rate * 1e6:,.0f} |"
                f" {l0:.1f} | {row['threads']} | {share:.0%} |"
            )
    yield ""
    yield (
        "Weights: trained by Strata on the rows that are encoded; two levels without ROOT. PyTorch and Strata's flat encoder found"
        " the same codes. The dense bound is 2 x d x latents operations a token at the rate of multiply-adds in registers."
    )


def seconds_to(curve, wanted):
    """When the held-out FVU first is as low as `wanted`, between the two places where it was measured."""
    for (t0, f0), (t1, f1) in zip(curve, curve[1:]):
        if f1 <= wanted < f0:
            return t0 + (t1 - t0) * (f0 - wanted) / (f0 - f1)
    return curve[0][0] if curve and curve[0][1] <= wanted else None
