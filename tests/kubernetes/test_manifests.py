"""The manifests of packaging/kubernetes: valid for every supported Kubernetes, and of one piece."""

from __future__ import annotations

import copy
import shutil
import subprocess
from pathlib import Path

import pytest

from shim_runc_py import __version__
from shim_runc_py.tools import cli, node
from shim_runc_py.tools.handler import Handler

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="group `manifests`")
yaml = pytest.importorskip("yaml", reason="group `manifests`")

PACKAGING = Path(__file__).parents[2] / "packaging"
KUBERNETES = PACKAGING / "kubernetes"
VERSIONS = ["1.26", "1.30", "1.33", kubernetes_validate.latest_version()]


def documents(path):
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


def manifests():
    return [
        (path, one)
        for path in sorted(KUBERNETES.rglob("*.yaml"))
        if path.name != "kustomization.yaml"
        for one in documents(path)
    ]


def only(kind):
    (found,) = [one for _, one in manifests() if one["kind"] == kind]
    return found


def check(document, version):
    kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_what_the_schemas_of_kubernetes_want(version):
    kinds = set()
    for path, document in manifests():
        try:
            check(document, version)
        except kubernetes_validate.ValidationError as error:
            pytest.fail(f"{path}: {document['kind']}: {error.message}")
        kinds.add(document["kind"])
    assert kinds == {
        "ClusterRole", "ClusterRoleBinding", "DaemonSet", "Deployment", "Namespace", "Pod",
        "RuntimeClass", "ServiceAccount",
    }  # fmt: skip


def test_the_schemas_notice_a_mistake():
    wrong = copy.deepcopy(only("DaemonSet"))
    wrong["spec"]["template"]["spec"]["hostPid"] = True
    with pytest.raises(kubernetes_validate.ValidationError, match="hostPid"):
        check(wrong, VERSIONS[-1])


def test_the_runtime_class_names_the_handler_that_install_registers():
    found = only("RuntimeClass")
    default = cli.parser().parse_args(["install"]).handler
    assert found["handler"] == default == Handler().name
    assert found["scheduling"]["nodeSelector"] == {node.LABEL: "true"}


def test_the_examples_choose_the_runtime_class():
    name = only("RuntimeClass")["metadata"]["name"]
    assert only("Pod")["spec"]["runtimeClassName"] == name
    assert only("Deployment")["spec"]["template"]["spec"]["runtimeClassName"] == name


def test_the_daemon_set_runs_a_command_that_there_is():
    spec = only("DaemonSet")["spec"]["template"]["spec"]
    (init,) = spec["initContainers"]
    asked = cli.parser().parse_args(["node", *init["args"]])
    assert (asked.action, asked.name, asked.pid) == ("install", "$(NODE_NAME)", 1)
    assert asked.restart == "systemctl restart containerd"
    assert init["securityContext"]["privileged"]
    assert spec["hostPID"]
    assert [entry["name"] for entry in init["env"]] == ["NODE_NAME"]


def test_only_the_init_container_is_privileged_and_the_account_may_only_patch_nodes():
    spec = only("DaemonSet")["spec"]["template"]["spec"]
    (stays,) = spec["containers"]
    assert stays["securityContext"]["runAsNonRoot"]
    assert stays["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert only("ClusterRole")["rules"] == [
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["patch"]}
    ]
    account = only("ServiceAccount")["metadata"]
    (subject,) = only("ClusterRoleBinding")["subjects"]
    assert (subject["name"], subject["namespace"]) == (account["name"], account["namespace"])
    assert spec["serviceAccountName"] == account["name"]


def test_every_file_is_in_the_kustomization_and_the_image_has_our_version():
    (found,) = documents(KUBERNETES / "install" / "kustomization.yaml")
    files = {path.name for path in (KUBERNETES / "install").glob("*.yaml")}
    assert {*found["resources"], "kustomization.yaml"} == files
    assert found["images"] == [{"name": "pyrunc-installer", "newTag": __version__}]
    images = {
        container["image"]
        for part in ("initContainers", "containers")
        for container in only("DaemonSet")["spec"]["template"]["spec"][part]
    }
    assert images == {"pyrunc-installer"}
    text = (KUBERNETES / "Containerfile").read_text()
    assert f"pyrunc-installer:{__version__}" in text


def test_the_patch_for_uninstall_hits_what_it_means():
    (found,) = documents(KUBERNETES / "uninstall" / "kustomization.yaml")
    (patch,) = found["patches"]
    assert patch["target"] == {"kind": "DaemonSet", "name": only("DaemonSet")["metadata"]["name"]}
    for operation in yaml.safe_load(patch["patch"]):
        here = only("DaemonSet")
        for step in operation["path"].strip("/").split("/"):
            here = here[int(step) if step.isdigit() else step]
        assert here != operation["value"]


@pytest.mark.parametrize(("directory", "action"), [("install",) * 2, ("uninstall",) * 2])
def test_kustomize_builds_it(directory, action):
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl here to build the kustomization with")
    done = subprocess.run(
        [kubectl, "kustomize", str(KUBERNETES / directory)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    built = [one for one in yaml.safe_load_all(done.stdout) if one]
    for document in built:
        check(document, VERSIONS[-1])
    (daemon_set,) = [one for one in built if one["kind"] == "DaemonSet"]
    (init,) = daemon_set["spec"]["template"]["spec"]["initContainers"]
    assert init["args"][0] == action
    assert init["image"] == f"pyrunc-installer:{__version__}"
