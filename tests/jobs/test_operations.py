"""docs/operations.md: its policies are JSON and grant what is needed, its commands exist, its costs add up."""

import json
import re
from pathlib import Path

import pytest
import typer

from cxr_ray.cli import app
from cxr_ray.config import ScanConfig
from cxr_ray.scoring.estimate import estimate

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
ACTIONS = {
    "worker": {"s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject"},
    "image": {"ecr:GetAuthorizationToken", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"},
    "head": {
        *("ec2:DescribeInstances", "ec2:DescribeInstanceTypes", "ec2:RunInstances", "ec2:CreateTags"),
        *("ec2:TerminateInstances", "iam:PassRole"),
    },
    "trust": {"sts:AssumeRole"},
    "irsa": {"sts:AssumeRoleWithWebIdentity"},
}


def policies() -> dict[str, str]:
    """The JSON of each policy by its name."""
    return dict(re.findall(r"<!-- policy: (\w+) -->\n```json\n(.*?)```", TEXT, flags=re.DOTALL))


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


@pytest.mark.parametrize("name", ACTIONS)
def test_policies_name_the_needed_actions_and_no_others(name):
    policy = json.loads(policies()[name])
    assert policy["Version"] == "2012-10-17"
    assert {statement["Effect"] for statement in policy["Statement"]} == {"Allow"}
    assert {action for statement in policy["Statement"] for action in listed(statement["Action"])} == ACTIONS[name]


def test_policies_are_all_looked_at():
    assert policies().keys() == ACTIONS.keys()
    assert TEXT.count("```json") == len(ACTIONS)


def test_policy_of_workers_writes_below_the_output_only():
    for statement in json.loads(policies()["worker"])["Statement"]:
        if {"s3:PutObject", "s3:DeleteObject"} & set(listed(statement["Action"])):
            assert set(statement["Resource"]) == {
                "arn:aws:s3:::RESULTS-BUCKET/scores/*",
                "arn:aws:s3:::RESULTS-BUCKET/training/*",
            }


def test_commands_in_the_text_exist():
    command = typer.main.get_command(app)
    names = re.findall(r"cxr-ray ([a-z]+)(?: (?:s3|OUT|INPUT)|`)", TEXT)
    assert {"status", "verify", "scan"} <= set(names)
    assert set(names) <= set(command.commands)  # type: ignore[attr-defined]
    for script in re.findall(r"jobs/[\w/]+\.(?:py|yaml)|jobs/Dockerfile|cluster\.yaml", TEXT):
        assert (ROOT / script).is_file(), script


def test_costs_follow_from_the_estimate_and_the_variables():
    given = {name: float(value) for name, value in re.findall(r"^\| ([A-Z]+) \| ([\d.]+) \|", TEXT, flags=re.MULTILINE)}
    rows = re.findall(r"^\| [^|]+ \| `([\d.]+)` \| (.+) \|$", TEXT, flags=re.MULTILINE)
    assert len(rows) == 5
    for syntax, text in rows:
        mb, core_hours, gpu_hours, hours, cost = map(float, text.split(" | "))
        found = estimate(
            images=10**6,
            megapixels={syntax: 2.5 * 3.0 * 10**6},
            fetched_bytes={"s3": int(mb * 10**12)},
            config=ScanConfig(),
        )
        cores = found.fetch_core_hours + found.decode_core_hours
        needed = max(cores / given["V"] / given["CPUS"], found.ensemble_gpu_hours / given["GPUS"])
        assert (core_hours, gpu_hours, hours) == (round(cores, 1), round(found.ensemble_gpu_hours, 2), round(needed, 2))
        assert cost == round((needed + given["IDLE"]) * given["NODES"] + given["REQUESTS"], 2)
