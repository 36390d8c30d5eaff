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
# Of the Prometheus operator, the Gateway API and cert-manager: these are no part of Kubernetes, and no schema of theirs is at hand.
WITHOUT_SCHEMA = {"ServiceMonitor", "PrometheusRule", "HTTPRoute", "BackendTLSPolicy", "Certificate", "Issuer"}

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
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            get = container.get(probe, {}).get("httpGet")
            if get is None and probe == "startupProbe":
                continue
            if get["port"] not in ports:
                problem(f"{probe} of {container['name']} is on a port that it has not")
            if (get["port"] == "https") != (get.get("scheme", "HTTP") == "HTTPS"):
                problem(f"{probe} of {container['name']} does not speak as its port does")
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                problem(f"{container['name']} mounts {mount['name']}, which is not there")
        env = {e["name"]: e.get("value") for e in container.get("env", [])}
        if "ROOMRING_STOP_GRACE" in env:
            needed = seconds(env["ROOMRING_STOP_GRACE"]) + 10
            needed += container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            if pod.get("terminationGracePeriodSeconds", 30) < needed:
                problem(f"it is killed after less than the {needed} s that a stop may take")


def check_network(objects, pods, problem_of):
    """Every port of a pod is let in by some policy, and no policy lets in to a port that no pod of its has."""
    for template in pods:
        labels = template["metadata"]["labels"].items()
        ports = {p["containerPort"] for c in template["spec"]["containers"] for p in c["ports"]}
        allowed = set()
        for policy in (o for o in objects if o["kind"] == "NetworkPolicy"):
            selector = policy["spec"]["podSelector"]
            if selector.get("matchLabels", {}).items() <= labels and "matchExpressions" not in selector:
                let_in = {p["port"] for rule in policy["spec"].get("ingress", []) for p in rule["ports"]}
                if let_in - ports:
                    problem_of(f"NetworkPolicy {policy['metadata']['name']}")(f"its pods have no port {let_in - ports}")
                allowed |= let_in
        if ports - allowed:
            problem_of("NetworkPolicy")(f"nobody may come to ports {ports - allowed} of {dict(labels)}")


def check_certificates(objects, pods, settings, problem_of):
    """Secrets come from certificates, where there are some; and those have the names that are asked for."""
    urls = settings["ROOMRING_ETCD"].split(",")
    if any(u.startswith("https:") for u in urls) != ("ROOMRING_ETCD_CA_FILE" in settings):
        problem_of("ConfigMap roomring")("etcd's URLs and its authority do not go together")
    made = {o["spec"]["secretName"]: o["spec"] for o in objects if o["kind"] == "Certificate"}
    if not made:
        return
    issuers = {o["metadata"]["name"] for o in objects if o["kind"] == "Issuer"}
    for secret, spec in made.items():
        if spec["issuerRef"]["kind"] == "Issuer" and spec["issuerRef"]["name"] not in issuers:
            problem_of(f"Certificate {secret}")("its issuer is not there")
    for template in pods:
        for volume in template["spec"].get("volumes", []):
            secret = volume.get("secret", {}).get("secretName", "")
            if secret.endswith("-tls") and secret not in made:
                problem_of(f"Secret {secret}")("no certificate makes it")
    if "ROOMRING_PEER_CA_FILE" in settings and made["roomring-peer-tls"]["dnsNames"] != ["roomring"]:
        problem_of("Certificate roomring-peer-tls")("processes ask for the name roomring")
    hosts = {u.split("//")[1].split(":")[0] for u in urls}
    if "roomring-etcd-tls" in made and hosts - set(made["roomring-etcd-tls"]["dnsNames"]):
        problem_of("Certificate roomring-etcd-tls")(f"it is not for {hosts}")


def speaks_tls(service, port):
    """Whether a port of a Service, by name or number, is one of TLS; None if it has no such port."""
    found = [p for p in service["spec"]["ports"] if port in (p["name"], p["port"])]
    return found[0].get("targetPort", found[0]["name"]) == "https" if found else None


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
                    service = names.get(("Service", backend["name"]))
                    tls = service and speaks_tls(service, backend["port"].get("name") or backend["port"].get("number"))
                    if tls is None:
                        problem(f"Service {backend['name']} or its port is not there")
                    says = o["metadata"]["annotations"].get("nginx.ingress.kubernetes.io/backend-protocol", "HTTP")
                    if tls != (says == "HTTPS"):
                        problem("it does not speak to routers as they do")
            least = int(o["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-read-timeout"])
            if least < 60:
                problem("it cuts WebSockets between two pings")
        if kind == "HTTPRoute":
            for rule in spec["rules"]:
                if rule["timeouts"]["request"] != "0s":
                    problem("it cuts WebSockets")
                for backend in rule["backendRefs"]:
                    service = names.get(("Service", backend["name"]))
                    tls = service and speaks_tls(service, backend["port"])
                    if tls is None:
                        problem(f"Service {backend['name']} or its port is not there")
                    trusted = [t for p in objects if p["kind"] == "BackendTLSPolicy" for t in p["spec"]["targetRefs"]]
                    if tls != any(t["name"] == backend["name"] for t in trusted):
                        problem("it does not speak to routers as they do")
    for template in pods:
        for container in template["spec"]["containers"]:
            for source in container.get("envFrom", []):
                if ("ConfigMap", source["configMapRef"]["name"]) not in names:
                    problem_of(container["name"])(f"ConfigMap {source['configMapRef']['name']} is not there")
        if ("ServiceAccount", template["spec"]["serviceAccountName"]) not in names:
            problem_of("pods")(f"ServiceAccount {template['spec']['serviceAccountName']} is not there")
    check_network(objects, pods, problem_of)
    maps = [o["data"] for o in objects if o["kind"] == "ConfigMap" and "ROOMRING_ETCD" in o["data"]]
    check_certificates(objects, pods, maps[0], problem_of)
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
