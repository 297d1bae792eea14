"""Show what a re-identification network finds: queries, the nearest gallery images framed right or wrong, CMC curves.

A distillation config is compared with its teachers. Images of the query's person from its own camera do not count.

Example:
    python tools/visualize_ranking.py CONFIG.py work_dirs/run/epoch_60.pth --out ranking.html ranking.png --pick worst
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from kd_mm.cli.options import add_common, run


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="config file, or package::path")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument(
        "--teacher", nargs=2, metavar=("CONFIG", "CHECKPOINT"), help="stand beside it (default: the config's teachers)"
    )
    parser.add_argument(
        "--out", nargs="+", default=["ranking.html"], metavar="FILE", help=".html or .png (default: ranking.html)"
    )
    parser.add_argument("--queries", type=int, default=8, metavar="N", help="queries to show (default: 8)")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="gallery images of each (default: 10)")
    parser.add_argument(
        "--pick", choices=["even", "worst"], default="even", help="which queries (default: evenly spread ones)"
    )
    parser.add_argument("--rerank", action="store_true", help="k-reciprocal re-ranking, as in the paper")
    add_common(parser)
    return parser.parse_args(argv)


def visualize(args: argparse.Namespace) -> None:
    from kd_mm.apis.retrieval import retrieve
    from kd_mm.evaluation.draw_retrieval import check_endings, write_retrieval

    check_endings(args.out)
    result = retrieve(
        args.config,
        args.checkpoint,
        teacher=args.teacher,
        queries=args.queries,
        top=args.top,
        pick=args.pick,
        rerank={} if args.rerank else None,
        options=args.cfg_options,
    )
    for path in args.out:
        write_retrieval(result, path, f"{args.config} with {args.checkpoint}")
    for name, top in result.tops.items():
        values = ", ".join(f"{key} {100 * top.measures[key]:.2f}" for key in ("mAP", "mAP_trapz", "mINP"))
        print(f"{name}: {values}, Rank-1 {100 * top.measures['cmc'][0]:.2f} ({result.setting})")
    print(f"wrote {' and '.join(args.out)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    return run("retrieval", visualize, parse_args, argv)
