"""Show what a re-identification network finds: queries, the nearest gallery images framed right or wrong, CMC curves.

A distillation config is compared with its teachers. Images of the query's person from its own camera do not count.

Example:
    python tools/visualize_ranking.py CONFIG.py work_dirs/run/epoch_60.pth --out ranking.png --pick worst
"""

import argparse
from functools import partial

from kd_mm.cli.options import add_cfg_options, run


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("config", help="config file, or package::path")
    add("checkpoint", help="checkpoint file")
    add("--teacher", nargs=2, metavar=("CONFIG", "CHECKPOINT"), help="drawn beside it (default: the config's teachers)")
    add("--out", default="ranking.png", metavar="FILE", help="ends in .png (default: ranking.png)")
    add("--queries", type=int, default=8, metavar="N", help="queries to show (default: 8)")
    add("--top", type=int, default=10, metavar="N", help="gallery images of each (default: 10)")
    add("--pick", choices=["even", "worst"], default="even", help="which queries (default: evenly spread ones)")
    add("--rerank", action="store_true", help="k-reciprocal re-ranking, as in the paper")
    add_cfg_options(parser)


def visualize(args: argparse.Namespace) -> None:
    from kd_mm.apis.retrieval import retrieve
    from kd_mm.evaluation.draw_retrieval import check_ending, write_retrieval

    check_ending(args.out)
    drawn = (args.teacher, args.queries, args.top, args.pick)
    result = retrieve(args.config, args.checkpoint, *drawn, {} if args.rerank else None, args.cfg_options)
    write_retrieval(result, args.out, f"{args.config} with {args.checkpoint}")
    for name, top in result.tops.items():
        values = ", ".join(f"{key} {100 * top.measures[key]:.2f}" for key in ("mAP", "mAP_trapz", "mINP"))
        print(f"{name}: {values}, Rank-1 {100 * top.measures['cmc'][0]:.2f} ({result.setting})")
    print(f"wrote {args.out}")


main = partial(run, "retrieval", __doc__, visualize, add_options)
