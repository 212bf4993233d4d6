# shellcheck shell=bash disable=SC2034
# Every tool of the test cluster and its exact version: the only place that names one.
# Kubernetes 1.34 is the last minor that runs on cgroup v1 and on the containerd 1.6 of Debian 12.
KUBE_VERSION=1.34.4      # kube/go.mod has the same, as v1.34.4 and v0.34.4
COREDNS_VERSION=1.15.0
VERSITYGW_VERSION=1.8.0
FAKE_GCS_SERVER_VERSION=1.56.1
AZURITE_VERSION=3.35.0   # later ones need Node.js 22
HELM_VERSION=3.22.0
KWOK_VERSION=0.8.0
KUEUE_VERSION=0.15.0
ARGOCD_VERSION=3.1.9     # later ones replace a module by a folder that their archive lacks
