"""The fields of a RayJob of KubeRay, as a JSON schema: no package on PyPI or npm carries KubeRay's own.

Written from the names, types and enumerations in KubeRay's API reference, v1.7.0 (docs/reference/api.md of
ray-project/kuberay: RayJobSpec, RayClusterSpec, HeadGroupSpec, WorkerGroupSpec, AutoscalerOptions, AuthOptions). A
field that is not there is a slip. Pod templates are plain Kubernetes and are checked against its schema.
"""

from typing import Any

TEXT, NUMBER, WHOLE, FLAG = ({"type": kind} for kind in ("string", "number", "integer", "boolean"))
TEXTS = {"type": "object", "additionalProperties": TEXT}
OBJECT = {"type": "object"}


def fields(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """An object of these fields and no others."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def one_of(*values: str) -> dict[str, Any]:
    """One of these words."""
    return {"enum": list(values)}


_GROUP = {"template": OBJECT, "resources": TEXTS, "labels": TEXTS, "rayStartParams": TEXTS}
_HEAD = fields(
    ("template",),
    **_GROUP,
    headService=OBJECT,
    enableIngress=FLAG,
    ingressOptions=OBJECT,
    serviceType=one_of("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
)
_WORKERS = fields(
    ("groupName", "template", "minReplicas", "maxReplicas"),
    **_GROUP,
    suspend=FLAG,
    groupName=TEXT,
    replicas=WHOLE,
    minReplicas=WHOLE,
    maxReplicas=WHOLE,
    idleTimeoutSeconds=WHOLE,
    priority=WHOLE,
    scaleStrategy=fields(workersToDelete={"type": "array", "items": TEXT}),
    numOfHosts=WHOLE,
)
_AUTOSCALER = fields(
    resources=fields(requests=TEXTS, limits=TEXTS, claims={"type": "array"}),
    image=TEXT,
    imagePullPolicy=one_of("Always", "IfNotPresent", "Never"),
    securityContext=OBJECT,
    idleTimeoutSeconds=WHOLE,
    upscalingMode=one_of("Default", "Aggressive", "Conservative"),
    version=one_of("v1", "v2"),
    env={"type": "array"},
    envFrom={"type": "array"},
    volumeMounts={"type": "array"},
    command={"type": "array", "items": TEXT},
    args={"type": "array", "items": TEXT},
)
_CLUSTER = fields(
    ("headGroupSpec",),
    upgradeStrategy=fields(type=one_of("Recreate", "None")),
    authOptions=fields(mode=one_of("disabled", "token"), secretName=TEXT, enableK8sTokenAuth=FLAG),
    suspend=FLAG,
    managedBy=TEXT,
    autoscalerOptions=_AUTOSCALER,
    headServiceAnnotations=TEXTS,
    enableInTreeAutoscaling=FLAG,
    gcsFaultToleranceOptions=OBJECT,
    historyServerOptions=OBJECT,
    networkPolicy=OBJECT,
    tlsOptions=OBJECT,
    headGroupSpec=_HEAD,
    rayVersion=TEXT,
    workerGroupSpecs={"type": "array", "items": _WORKERS},
)
_JOB = fields(
    activeDeadlineSeconds={**WHOLE, "minimum": 1},
    backoffLimit=WHOLE,
    rayClusterSpec=_CLUSTER,
    submitterPodTemplate=OBJECT,
    metadata=TEXTS,
    clusterSelector=TEXTS,
    submitterConfig=fields(backoffLimit=WHOLE),
    managedBy=TEXT,
    deletionStrategy=OBJECT,
    entrypoint=TEXT,
    runtimeEnvYAML=TEXT,
    jobId=TEXT,
    submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    entrypointResources=TEXT,
    entrypointNumCpus=NUMBER,
    entrypointNumGpus=NUMBER,
    ttlSecondsAfterFinished=WHOLE,
    preRunningDeadlineSeconds={**WHOLE, "minimum": 1},
    shutdownAfterJobFinishes=FLAG,
    suspend=FLAG,
)
RAY_JOB = fields(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion=one_of("ray.io/v1"),
    kind=one_of("RayJob"),
    metadata=OBJECT,
    spec=_JOB,
)
