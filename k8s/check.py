"""Checks rendered manifests: python3 k8s/check.py RENDERED.yaml...

Each object is validated against the schemas of Kubernetes, strictly (an unknown field is an error), and against the rules of this
project that no schema knows. What a binary accepts is checked by `tests/tests/k8s.rs`, for which each file is also written as JSON.
"""

import json
import pathlib
import sys

import kubernetes_validate
import yaml

VERSIONS = ["1.32", "1.35"]
# Of the Prometheus operator and the Gateway API: these are no part of Kubernetes, and no schema of theirs is at hand.
WITHOUT_SCHEMA = {"ServiceMonitor", "PrometheusRule", "HTTPRoute"}

problems = []


def seconds(text):
    assert text.endswith("s") and text[:-1].isdigit(), f"{text!r} is no number of seconds"
    return int(text[:-1])


def check_pods(where, spec, problem):
    """What the 'restricted' Pod Security Standard and this project ask of pods."""
    pod = spec["template"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    if spec["selector"]["matchLabels"].items() - labels.items():
        problem("its selector does not match its pods")
    if pod.get("automountServiceAccountToken") is not False:
        problem("its pods get a token")
    if pod.get("enableServiceLinks") is not False:
        problem("Services would set variables that begin with ROOMRING_")
    security = pod.get("securityContext", {})
    if security.get("runAsNonRoot") is not True or security.get("runAsUser", 0) == 0:
        problem("its pods may run as root")
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        problem("no seccomp profile")
    for forbidden in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(forbidden):
            problem(f"{forbidden} is set")
    allowed = {"configMap", "secret", "emptyDir", "persistentVolumeClaim"}
    for volume in pod.get("volumes", []):
        if not (volume.keys() - {"name"}) <= allowed:
            problem(f"volume {volume['name']} is of a kind that restricted pods may not have")
    volumes = {v["name"] for v in pod.get("volumes", [])} | {
        c["metadata"]["name"] for c in spec.get("volumeClaimTemplates", [])
    }
    for container in pod["containers"]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities") != {"drop": ["ALL"]}:
            problem(f"{container['name']} keeps privileges")
        if own.get("readOnlyRootFilesystem") is not True:
            problem(f"{container['name']} may write to its root")
        if "cpu" not in container["resources"]["requests"] or "memory" not in container["resources"]["limits"]:
            problem(f"{container['name']} has no request of CPU or no limit of memory")
        ports = {p["name"] for p in container["ports"]}
        for probe in ("livenessProbe", "readinessProbe"):
            if container[probe]["httpGet"]["port"] not in ports:
                problem(f"{probe} of {container['name']} is on a port that it has not")
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                problem(f"{container['name']} mounts {mount['name']}, which is not there")
        env = {e["name"]: e.get("value") for e in container.get("env", [])}
        if "ROOMRING_STOP_GRACE" in env:
            needed = seconds(env["ROOMRING_STOP_GRACE"]) + 10
            needed += container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            if pod.get("terminationGracePeriodSeconds", 30) < needed:
                problem(f"it is killed after less than the {needed} s that a stop may take")


def check(path, objects):
    def problem_of(what):
        return lambda text: problems.append(f"{path}: {what}: {text}")

    names = {(o["kind"], o["metadata"]["name"]): o for o in objects}
    namespaces = [o for o in objects if o["kind"] == "Namespace"]
    if len(namespaces) != 1 or "restricted" not in namespaces[0]["metadata"]["labels"].values():
        problem_of("Namespace")("there is none that enforces restricted pods")
    pods = []
    for o in objects:
        kind, name = o["kind"], o["metadata"]["name"]
        problem = problem_of(f"{kind} {name}")
        if kind != "Namespace" and o["metadata"].get("namespace") != namespaces[0]["metadata"]["name"]:
            problem("it is in no namespace, or in another")
        for version in [] if kind in WITHOUT_SCHEMA else VERSIONS:
            try:
                kubernetes_validate.validate(o, version, strict=True)
            except kubernetes_validate.ValidationError as e:
                problem(f"Kubernetes {version}: {'.'.join(map(str, e.path))}: {e.message}")
        if kind in ("StatefulSet", "Deployment"):
            check_pods(path, o["spec"], problem)
            pods.append(o["spec"]["template"])
        if kind == "ServiceAccount" and o.get("automountServiceAccountToken") is not False:
            problem("it hands out tokens")
    for o in objects:
        kind, name, spec = o["kind"], o["metadata"]["name"], o.get("spec", {})
        problem = problem_of(f"{kind} {name}")
        if kind in ("Service", "PodDisruptionBudget"):
            selector = spec["selector"] if kind == "Service" else spec["selector"]["matchLabels"]
            chosen = [p for p in pods if selector.items() <= p["metadata"]["labels"].items()]
            if len(chosen) != 1:
                problem(f"it selects {len(chosen)} kinds of pods")
            elif kind == "Service":
                ports = {p["name"] for c in chosen[0]["spec"]["containers"] for p in c["ports"]}
                missing = {p.get("targetPort", p["name"]) for p in spec["ports"]} - ports
                if missing:
                    problem(f"its pods have no port {missing}")
        if kind == "StatefulSet" and ("Service", spec["serviceName"]) not in names:
            problem("its Service is not there")
        if kind == "HorizontalPodAutoscaler" and (spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"]) not in names:
            problem("what it scales is not there")
        if kind == "ServiceMonitor":
            wanted = spec["selector"]["matchLabels"].items()
            services = [s for s in objects if s["kind"] == "Service" and wanted <= s["metadata"]["labels"].items()]
            ports = {p["name"] for s in services for p in s["spec"]["ports"]}
            if len(services) != 1 or any(e["port"] not in ports for e in spec["endpoints"]):
                problem("it finds no port of one Service")
        if kind == "Ingress":
            for rule in spec["rules"]:
                for backend in (p["backend"]["service"] for p in rule["http"]["paths"]):
                    if ("Service", backend["name"]) not in names:
                        problem(f"Service {backend['name']} is not there")
            least = int(o["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-read-timeout"])
            if least < 60:
                problem("it cuts WebSockets between two pings")
        if kind == "HTTPRoute":
            for rule in spec["rules"]:
                if rule["timeouts"]["request"] != "0s":
                    problem("it cuts WebSockets")
                if any(("Service", b["name"]) not in names for b in rule["backendRefs"]):
                    problem("a Service of it is not there")
    for template in pods:
        for container in template["spec"]["containers"]:
            for source in container.get("envFrom", []):
                if ("ConfigMap", source["configMapRef"]["name"]) not in names:
                    problem_of(container["name"])(f"ConfigMap {source['configMapRef']['name']} is not there")
        if ("ServiceAccount", template["spec"]["serviceAccountName"]) not in names:
            problem_of("pods")(f"ServiceAccount {template['spec']['serviceAccountName']} is not there")
    denies = [o for o in objects if o["kind"] == "NetworkPolicy" and not o["spec"].get("ingress") and not o["spec"].get("egress")]
    if not any(set(o["spec"]["policyTypes"]) == {"Ingress", "Egress"} for o in denies):
        problem_of("NetworkPolicy")("none denies what is not allowed")


def main(paths):
    checked = 0
    for path in map(pathlib.Path, paths):
        objects = [o for o in yaml.safe_load_all(path.read_text()) if o]
        check(path.name, objects)
        path.with_suffix(".json").write_text(json.dumps(objects))
        checked += len(objects)
    for problem in problems:
        print(problem, file=sys.stderr)
    # A check that can't fail shows nothing: an altered object has to be refused.
    altered = [o for o in yaml.safe_load_all(pathlib.Path(paths[0]).read_text()) if o and o["kind"] == "StatefulSet"][0]
    altered["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    try:
        kubernetes_validate.validate(altered, VERSIONS[0], strict=True)
        sys.exit("a misspelt field passes: the schemas are not looked at")
    except kubernetes_validate.ValidationError:
        pass
    if problems:
        sys.exit(1)
    print(f"{checked} objects of {len(paths)} overlays hold, against the schemas of Kubernetes {' and '.join(VERSIONS)}")


if __name__ == "__main__":
    main(sys.argv[1:])
