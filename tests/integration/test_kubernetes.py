"""deploy/kubernetes: the instance, the pods, and a run that is launched as a Job.

There is no cluster: a server in this process stands for the Kubernetes API and stores the Jobs.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import dagster as dg
import kubernetes.client
import pytest
import yaml
from dagster._core.launcher import LaunchRunContext, WorkerStatus
from dagster._core.workspace.context import WorkspaceProcessContext, WorkspaceRequestContext
from dagster._core.workspace.load_target import GrpcServerTarget
from dagster._grpc.client import DagsterGrpcClient
from dagster_k8s.models import k8s_model_from_dict, k8s_snake_case_dict
from dagster_runs import make_run
from paths import ROOT

from magnetis_dagster.dev.home import free_port

FOLDER = ROOT / "deploy" / "kubernetes"
IMAGE = "registry.example/magnetis-dagster:0.1.0"
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
POD = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "runAsGroup": 10001,
    "fsGroup": 10001,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


VALUES = load(FOLDER / "values.yaml")
INSTANCE = load(FOLDER / "dagster.yaml")
LAUNCHER = INSTANCE["run_launcher"]["config"]
MIGRATE = load(FOLDER / "migrate.yaml")["spec"]["template"]["spec"]
KUSTOMIZATION = load(FOLDER / "kustomization.yaml")
CODE = VALUES["dagster-user-deployments"]["deployments"][0]
COMPONENTS = {
    "webserver": VALUES["dagsterWebserver"],
    "daemon": VALUES["dagsterDaemon"],
    "code": CODE,
}


def test_the_instance_differs_from_dagster_yaml_only_in_launcher_and_logs() -> None:
    one_machine = load(ROOT / "dagster.yaml")
    assert set(INSTANCE) == {*one_machine, "compute_logs"}
    assert {key for key in one_machine if one_machine[key] != INSTANCE[key]} == {"run_launcher"}


def test_names_agree_between_the_files() -> None:
    made = {generator["name"] for generator in KUSTOMIZATION["configMapGenerator"]}
    account = load(FOLDER / "service-account.yaml")
    assert made == {"magnetis-instance", "magnetis-settings"}
    assert KUSTOMIZATION["generatorOptions"] == {"disableNameSuffixHash": True}
    assert set(LAUNCHER["env_config_maps"]) | {LAUNCHER["instance_config_map"]} == made
    assert (
        account["metadata"]["name"]
        == LAUNCHER["service_account_name"]
        == MIGRATE["serviceAccountName"]
    )
    assert VALUES["dagster-user-deployments"]["serviceAccount"] == {
        "create": False,
        "name": account["metadata"]["name"],
    }
    assert (
        account["automountServiceAccountToken"] is MIGRATE["automountServiceAccountToken"] is False
    )
    assert (
        KUSTOMIZATION["namespace"]
        == LAUNCHER["job_namespace"]
        == load(FOLDER / "migrate.yaml")["metadata"]["namespace"]
    )
    [location] = VALUES["dagsterWebserver"]["workspace"]["servers"]
    [there] = load(ROOT / "deploy" / "workspace.yaml")["load_from"]
    assert location == {
        "host": CODE["name"],
        "port": CODE["port"],
        "name": there["grpc_server"]["location_name"],
    }
    assert {
        component["image"]["repository"] + ":" + component["image"]["tag"]
        for component in COMPONENTS.values()
    } == {MIGRATE["containers"][0]["image"]}


@pytest.mark.parametrize("name", COMPONENTS)
def test_pods_of_the_chart_are_restricted_and_use_our_instance(name: str) -> None:
    component = COMPONENTS[name]
    assert component["podSecurityContext"] == POD
    assert component["securityContext"] == RESTRICTED
    assert {"name": "DAGSTER_HOME", "value": LAUNCHER["dagster_home"]} in component["env"]
    mounts = {mount["mountPath"]: mount for mount in component["volumeMounts"]}
    instance = mounts[f"{LAUNCHER['dagster_home']}/dagster.yaml"]
    assert instance["subPath"] == "dagster.yaml"
    assert {"name": instance["name"], "configMap": {"name": "magnetis-instance"}} in component[
        "volumes"
    ]
    assert "emptyDir" in next(
        volume for volume in component["volumes"] if volume["name"] == mounts["/tmp"]["name"]
    )
    assert component["resources"].keys() == {"requests", "limits"}
    # only pods that request the API have the key
    role = {"webserver": "ui", "daemon": "daemon", "code": "load"}[name]
    expected = [
        {"name": f"magnetis-database-{role}"},
        *([{"name": "magnetis-api"}] if name == "code" else []),
    ]
    assert component["envSecrets"] == expected


def test_no_file_contains_a_secret() -> None:
    secret = {"MAGNETIS_API_KEY", "MAGNETIS_DATABASE_PASSWORD", "MAGNETIS_ALERT_WEBHOOK_URL"}
    for path in FOLDER.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not [name for name in secret if f"{name}=" in text or f"{name}:" in text], path.name
    assert "MAGNETIS_DATABASE_URL=" not in (FOLDER / "settings.env").read_text(), (
        "the role belongs to the component"
    )


def test_only_the_migration_owns_the_tables() -> None:
    [migrate] = MIGRATE["containers"]
    assert [entry["secretRef"]["name"] for entry in migrate["envFrom"] if "secretRef" in entry] == [
        "magnetis-database-owner"
    ]
    assert LAUNCHER["env_secrets"] == ["magnetis-database-load", "magnetis-api"]
    assert re.fullmatch(r"1\.36@sha256:[0-9a-f]{64}", VALUES["busybox"]["image"]["tag"])


def test_only_webservers_and_daemon_reach_the_code_location() -> None:
    text = (FOLDER / "network-policy.yaml").read_text(encoding="utf-8")
    others, code = (policy["spec"] for policy in yaml.safe_load_all(text))
    # policies are cumulative, so the one for the other pods must exclude the code location
    left_out = {"key": "component", "operator": "NotIn", "values": ["user-deployments"]}
    assert others["podSelector"]["matchExpressions"] == [left_out]
    assert code["podSelector"] == {"matchLabels": {"component": "user-deployments"}}
    [allowed] = code["ingress"]
    assert allowed["ports"] == [{"port": CODE["port"]}]
    [callers] = [peer["podSelector"]["matchExpressions"] for peer in allowed["from"]]
    assert callers[0]["operator"] == "In"
    assert set(callers[0]["values"]) == {
        "dagster-webserver",
        "dagster-webserver-read-only",
        "dagster-daemon",
    }


def test_kubernetes_knows_every_field() -> None:
    def check(kind: str, body: dict[str, Any]) -> None:
        model = getattr(kubernetes.client, f"V1{kind}")
        k8s_model_from_dict(model, k8s_snake_case_dict(model, body))

    for path in (FOLDER / name for name in [*KUSTOMIZATION["resources"], "migrate.yaml"]):
        for body in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            check(body["kind"], body)
    for component in COMPONENTS.values():
        check("PodSecurityContext", component["podSecurityContext"])
        check("SecurityContext", component["securityContext"])
        check("ResourceRequirements", component["resources"])
        for kind, entries in (
            ("Volume", "volumes"),
            ("VolumeMount", "volumeMounts"),
            ("EnvVar", "env"),
        ):
            for entry in component[entries]:
                check(kind, entry)
        for probe in component.keys() & {"readinessProbe", "livenessProbe"}:
            check("Probe", component[probe])
    with pytest.raises(Exception, match="Unexpected keys"):
        check("SecurityContext", {"readOnlyRootFileSystem": True})


@dataclass
class Cluster:
    """The requests to the stand-in for the Kubernetes API."""

    url: str = ""
    jobs: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    asked = Cluster()

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path.startswith("/apis/batch/v1/namespaces/magnetis/jobs"), self.path
            asked.jobs.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.answer(asked.jobs[-1])

        def do_GET(self) -> None:
            name = self.path.rstrip("/").split("/")[-2 if self.path.endswith("/status") else -1]
            job = next(job for job in asked.jobs if job["metadata"]["name"] == name)
            self.answer(
                {
                    **job,
                    "status": {"failed": 1, "conditions": [{"type": "Failed", "status": "True"}]},
                }
            )

        def answer(self, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        asked.url = f"http://127.0.0.1:{server.server_port}"
        yield asked
        server.shutdown()
        thread.join()


@pytest.fixture
def instance(
    tmp_path: Path, cluster: Cluster, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """Return the instance of deploy/kubernetes/dagster.yaml with the stand-in as its cluster."""
    access = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "here"}}],
        "clusters": [{"name": "here", "cluster": {"server": cluster.url}}],
        "users": [{"name": "here", "user": {}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(access))
    config = {
        **LAUNCHER,
        "load_incluster_config": False,
        "kubeconfig_file": str(tmp_path / "kubeconfig"),
    }
    launcher = {**INSTANCE["run_launcher"], "config": config}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump({**INSTANCE, "run_launcher": launcher}))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("MAGNETIS_DATABASE_URL", database_url)
    with dg.DagsterInstance.get() as opened:
        yield opened


LOCATION = """
import dagster as dg

@dg.op
def work():
    pass

@dg.job
def working():
    work()

defs = dg.Definitions(jobs=[working])
"""


@pytest.fixture
def workspace(tmp_path: Path, instance: dg.DagsterInstance) -> Iterator[WorkspaceRequestContext]:
    """Start a code location like the chart, with the name of its image."""
    (tmp_path / "location.py").write_text(LOCATION)
    port = free_port()
    program = Path(sys.executable).parent / "dagster"
    server = subprocess.Popen(
        [program, "api", "grpc", "--port", str(port), "--python-file", tmp_path / "location.py"],
        env={**os.environ, "DAGSTER_CURRENT_IMAGE": IMAGE},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 60
        while DagsterGrpcClient(port=port, host="localhost").health_check_query() != "SERVING":
            assert time.monotonic() < end, "the code server is not up after 60 s"
            time.sleep(0.2)
        target = GrpcServerTarget(host="localhost", port=port, socket=None, location_name="here")
        with WorkspaceProcessContext(instance, target) as process:
            yield process.create_request_context()
    finally:
        server.kill()
        server.wait()


WISHES: tuple[dict[str, Any], ...] = (
    {"pod_spec_config": {"host_network": True}},
    {"container_config": {"security_context": {"privileged": True}}},
    {"container_config": {"env_from": [{"secret_ref": {"name": "another"}}]}},
)


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # of Dagster's and of the Kubernetes client's own code
def test_a_run_is_a_restricted_job_with_the_shared_database(
    instance: dg.DagsterInstance,
    workspace: WorkspaceRequestContext,
    cluster: Cluster,
    database_url: str,
    tmp_path: Path,
) -> None:
    run = make_run(instance, workspace, "working", {})
    instance.launch_run(run.run_id, workspace)
    [job] = cluster.jobs
    pod = job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["image"] == IMAGE
    assert container["securityContext"] == RESTRICTED
    assert pod["securityContext"] == POD
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == (
        "magnetis-run",
        False,
    )
    assert (pod["restartPolicy"], job["spec"]["backoffLimit"]) == ("Never", 0)
    assert [
        (kind, source["name"]) for entry in container["envFrom"] for kind, source in entry.items()
    ] == [
        ("configMapRef", "magnetis-settings"),
        ("secretRef", "magnetis-database-load"),
        ("secretRef", "magnetis-api"),
    ]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    written = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert written.keys() == {"/tmp", "/opt/dagster/storage"}
    assert all("emptyDir" in volume for volume in written.values())
    assert database_url not in json.dumps(job)

    for wish in WISHES:  # a launch cannot relax the restrictions of the pod
        wishing = make_run(instance, workspace, "working", {"dagster-k8s/config": json.dumps(wish)})
        with pytest.raises(Exception, match="violated the allowed list"):
            instance.run_launcher.launch_run(
                LaunchRunContext(dagster_run=wishing, workspace=workspace)
            )
    assert cluster.jobs == [job]

    # the pod has the variables of the Job, ConfigMap and Secrets, and no access to Kubernetes
    (tmp_path / "kubeconfig").unlink()
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MAGNETIS_DATABASE_URL": database_url,
    }
    environment |= {entry["name"]: entry["value"] for entry in container["env"]}
    subprocess.run(
        container["args"],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        timeout=120,
    )
    ended = instance.get_run_by_id(run.run_id)
    assert ended
    assert ended.status is dg.DagsterRunStatus.SUCCESS

    # the stand-in reports that the pod of every Job failed, so the run is reported as dead
    started = make_run(instance, workspace, "working", {})
    instance.launch_run(started.run_id, workspace)
    instance.report_dagster_event(
        dg.DagsterEvent(event_type_value="PIPELINE_START", job_name="working", message="started"),
        run_id=started.run_id,
    )
    found = instance.get_run_by_id(started.run_id)
    assert found
    assert instance.run_launcher.supports_check_run_worker_health
    assert instance.run_launcher.check_run_worker_health(found).status is WorkerStatus.FAILED
