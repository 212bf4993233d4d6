#!/usr/bin/env bash
# packaging.sh [check|write|cluster]: charts, manifests, alerts, dashboard and health check.
#
#   check   (default) compares what is generated with what is committed, and runs every test that needs no cluster
#   cluster sends every variant to the API server of BAKEHOUSE_KUBECONFIG, as a dry run; `check` does so too when the variable is set
#   write   generates anew: the copies in the charts, their READMEs, the manifests in deploy/
set -euo pipefail
cd "$(dirname "$0")/.."

CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/bakehouse"
HELM_DOCS_VERSION=1.14.2
UNITTEST_VERSION=1.1.2

step() { printf '== %s\n' "$*" >&2; }
die() { printf 'packaging.sh: %s\n' "$*" >&2; exit 1; }

# The first of these that can be run.
first() { local tool; for tool in "$@"; do if type -P "$tool"; then return; fi; done; return 1; }

tools() {
  command -v go >/dev/null || die "Go is missing: install Go 1.25 or later (https://go.dev/doc/install)"
  HELM="$(first helm "$CACHE"/helm-[0-9]*/helm)" || { e2e/cluster/components.sh helm; HELM="$(first "$CACHE"/helm-[0-9]*/helm)"; }
  KUBECTL="$(first kubectl "$CACHE"/kube-*/kubectl)" || { e2e/cluster/components.sh kube; KUBECTL="$(first "$CACHE"/kube-*/kubectl)"; }
  PROMTOOL="$(first promtool)" || { e2e/cluster/components.sh promtool; PROMTOOL="$(first promtool)"; }
  HELM_DOCS="$CACHE/helm-docs-$HELM_DOCS_VERSION/helm-docs"
  if [ ! -x "$HELM_DOCS" ]; then
    step "building helm-docs $HELM_DOCS_VERSION"
    (cd / && GOBIN="$(dirname "$HELM_DOCS")" nice -n 5 go install "github.com/norwoodj/helm-docs/cmd/helm-docs@v$HELM_DOCS_VERSION")
  fi
  UNITTEST="$CACHE/helm-unittest-$UNITTEST_VERSION/untt"
  if [ ! -x "$UNITTEST" ]; then
    step "building helm-unittest $UNITTEST_VERSION"
    # Its go.mod replaces a module, which `go install` refuses; from a copy of its source it builds.
    local work source
    work="$(mktemp -d)"
    source="$(cd / && go mod download -json "github.com/helm-unittest/helm-unittest@v$UNITTEST_VERSION" | sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p')"
    cp -r "$source" "$work/source" && chmod -R u+w "$work"
    mkdir -p "$(dirname "$UNITTEST")"
    (cd "$work/source" && CGO_ENABLED=0 nice -n 5 go build -buildvcs=false -trimpath -o "$UNITTEST" ./cmd/helm-unittest)
    rm -rf "$work"
  fi
}

# Helm says of every symbolic link that it follows it; ours is meant.
quiet_helm() { "$HELM" "$@" 2> >(grep -v 'found symbolic link' >&2); }

# render [OPTION...]: the operator by the chart, for kustomize: without what only Helm needs, and without the CRD.
render() {
  quiet_helm template bakehouse charts/bakehouse -n bakehouse-system --skip-tests --kube-version 1.33.0 --set crds.enabled=false "$@" |
    sed '/^# Source: /d; /helm\.sh\/chart: /d; /app\.kubernetes\.io\/managed-by: /d'
}

VAP=(--set policy.enabled=true --set 'policy.imagePrefixes={registry.example.com/ml/}' --set 'policy.uriPrefixes={s3://models/,pvc://}'
  --set 'policy.endpoints={https://s3.example.com}' --set-string policy.namespaceSelector.matchLabels.bakes=restricted)

# generate ROOT: everything that is generated, under ROOT, from what lies under ROOT.
generate() (
  cd "$1"
  local note='# Rendered from charts/bakehouse by `scripts/packaging.sh write`. Do not edit.'
  cp crds/bakehouse.dev_bakejobs.yaml charts/bakehouse-crds/files/
  cp deploy/prometheus/rules.yaml deploy/grafana/dashboard.json charts/bakehouse/files/
  cp crds/bakehouse.dev_bakejobs.yaml deploy/base/crd.yaml
  { echo "$note"; render; } >deploy/base/operator.yaml
  # The Role of the Lease is in the base already.
  { echo "$note"; render --set 'watchNamespaces={bakes}' -s templates/role.yaml | awk 'BEGIN { RS = "---\n"; ORS = "" } /namespace: bakes\n/ { print "---\n" $0 }'; } >deploy/overlays/namespaced/role.yaml
  {
    echo "$note"
    echo '# The addresses under the API server'"'"'s ports: most network plugins look at a packet after the Service'"'"'s address was replaced, so put in those of'
    echo '# `kubectl get endpointslices -n default kubernetes`.'
    render --set networkPolicy.enabled=true -s templates/networkpolicy.yaml
  } >deploy/overlays/restricted/networkpolicy.yaml
  {
    echo "$note"
    echo '# Put in your own registries, prefixes and endpoints. It applies to namespaces labelled bakes=restricted.'
    render "${VAP[@]}" -s templates/admissionpolicy.yaml
  } >deploy/policy/vap.yaml
  "$HELM_DOCS" --log-level warning --chart-search-root charts --sort-values-order file >/dev/null
)

# same_as_chart OVERLAY OPTION...: the overlay gives what the chart gives with these options. kustomize puts both in one order.
same_as_chart() {
  local overlay="$1" work; shift
  work="$(mktemp -d)"
  mkdir "$work/chart"
  cp deploy/base/namespace.yaml deploy/base/crd.yaml "$work/chart/"
  render "$@" >"$work/chart/operator.yaml"
  printf 'resources: [namespace.yaml, crd.yaml, operator.yaml]\n' >"$work/chart/kustomization.yaml"
  "$KUBECTL" kustomize "$work/chart" >"$work/a"
  "$KUBECTL" kustomize "$overlay" >"$work/b"
  diff -u "$work/a" "$work/b" >&2 || { rm -rf "$work"; die "$overlay is not the chart with: $*"; }
  rm -rf "$work"
}

# Names of metrics, as /metrics shows them, from the code that registers them: `register("name", "help", self.field…)`.
metric_names() {
  python3 - <<'PY'
import glob, re
for path in glob.glob("src/operator/runtime/*.rs"):
    text = open(path).read()
    # Fields by kind; `type Times = Family<…, Histogram…>` stands for its right-hand side.
    kinds = dict(re.findall(r"\b(\w+)(?:: | = )(?:Family<\w+, )?(Counter|Gauge|Histogram)\b", text))
    kinds |= {field: kinds[alias] for field, alias in re.findall(r"\b(\w+): (\w+),", text) if alias in kinds}
    for name, field in re.findall(r'register\(\s*"(\w+)",\s*"[^"]*",\s*([\w.]+?)(?:\.clone\(\))?,?\s*\)', text):
        kind = "Counter" if field == "self.requests.0" else kinds[field.split(".")[-1]]
        for end in {"Counter": ["_total"], "Gauge": [""], "Histogram": ["_bucket", "_sum", "_count"]}[kind]:
            print(name + end)
PY
}

metrics_exist() {
  local missing
  missing="$(comm -23 \
    <(grep -ohE '\b(bakejob|controller_runtime|workqueue|leader_election|rest_client)_[a-z0-9_]+' deploy/prometheus/rules.yaml deploy/grafana/dashboard.json | sort -u) \
    <(metric_names | sort -u))"
  [ -z "$missing" ] || die "alerts or dashboard name metrics that src/operator/runtime does not register:"$'\n'"$missing"
}

# What the code asks of the API server and what the chart allows, kind by kind.
rights_match() {
  local role
  role="$(render -s templates/clusterrole.yaml)"
  ! grep -nE 'secrets|configmaps|"\*"|\[\*\]' <<<"$role" || die "the ClusterRole reaches for Secrets, ConfigMaps or a wildcard"
  ! grep -rnE 'Api::<(Secret|ConfigMap)>|api::core::v1::(Secret|ConfigMap)\b' src/operator/runtime || die "the operator reads Secrets or ConfigMaps"
  local kind
  # Every kind that the runtime has an Api of must be in this list, so that a new one is thought of here.
  for kind in $(grep -rhoE 'Api::<[A-Za-z<>]+>|Api<[A-Z][A-Za-z]+>' src/operator/runtime | grep -oE '(BakeJob|Guarded|Job|Pod|Node|PriorityClass|Lease|[A-Z][A-Za-z]+)>' | tr -d '>' | sort -u); do
    case "$kind" in
      BakeJob | Guarded | Job | Pod | Node | PriorityClass | Lease | DeserializeGuard | K | Workload | DynamicObject) ;;
      *) die "the operator has an Api of $kind: give the chart's role the right, and add it here" ;;
    esac
  done
}

check() {
  work="$(mktemp -d)"   # not local: the trap outlives the function
  trap 'rm -rf "$work"' EXIT
  step "what is generated is what is committed"
  mkdir "$work/tree"
  cp -r crds charts deploy "$work/tree/"
  generate "$work/tree"
  for folder in charts deploy; do
    diff -ru "$folder" "$work/tree/$folder" || die "run scripts/packaging.sh write, and commit"
  done
  step "helm lint"
  quiet_helm lint --strict charts/bakehouse charts/bakehouse-crds
  step "helm-unittest"
  "$UNITTEST" charts/bakehouse 2>&1 | grep -v 'symbolic link'
  step "overlays are the chart with an option"
  same_as_chart deploy/base
  same_as_chart deploy/overlays/kueue --set kueue.enabled=true
  same_as_chart deploy/overlays/namespaced --set 'watchNamespaces={bakes}'
  "$KUBECTL" kustomize deploy/overlays/restricted >/dev/null
  step "alerts"
  "$PROMTOOL" check rules deploy/prometheus/rules.yaml
  "$PROMTOOL" test rules deploy/prometheus/rules_test.yaml
  step "alerts and dashboard name metrics that there are"
  python3 -m json.tool deploy/grafana/dashboard.json >/dev/null
  metrics_exist
  step "the role is what the code calls"
  rights_match
  step "health check of Argo CD"
  (cd deploy/argocd && go vet ./... && go test ./...)
  if [ -n "${BAKEHOUSE_KUBECONFIG:-}" ]; then dry_run "$work"; fi
  echo "packaging: all checks passed"
}

# dry_run FOLDER: every variant goes to a real API server, which validates all of it and keeps nothing.
dry_run() {
  local name
  local -A variants=(
    [default]='' [namespaced]='--set watchNamespaces={default}' [kueue]='--set kueue.enabled=true' [single]='--set replicas=1'
    [network]='--set networkPolicy.enabled=true' [dashboard]='--set grafanaDashboard.enabled=true' [policy]="${VAP[*]}" [no-aggregate]='--set rbac.aggregatedRoles=false'
    [caps]='--set caps.maxBakes=4,caps.maxBakesPerNamespace=2 --set gateFloors={AccuracyRetention>=0.95} --set cache.uri=s3://bakes/cache' [existing-account]='--set serviceAccount.create=false,serviceAccount.name=default'
  )
  for name in "${!variants[@]}"; do
    step "API server: chart, $name"
    # shellcheck disable=SC2086
    quiet_helm template bakehouse charts/bakehouse -n default --kube-version 1.33.0 ${variants[$name]} >"$1/$name.yaml"
    "$KUBECTL" --kubeconfig "$BAKEHOUSE_KUBECONFIG" apply --dry-run=server --validate=strict -n default -f "$1/$name.yaml"
  done
  policy_and_examples
}

kube() { "$KUBECTL" --kubeconfig "$BAKEHOUSE_KUBECONFIG" "$@"; }
dry() { kube apply --dry-run=server --validate=strict "$@"; }

# What it makes in the cluster it takes away again: a namespace, the policy, and the CRD where there was none. Not beside another test that installs the CRD.
policy_and_examples() (
  local crd='' refused
  kube get crd bakejobs.bakehouse.dev >/dev/null 2>&1 || crd=1
  # shellcheck disable=SC2064
  trap "kube delete -f deploy/policy/vap.yaml --ignore-not-found >/dev/null; kube delete namespace bakehouse-packaging --ignore-not-found --wait=false >/dev/null
    [ -z '$crd' ] || kube delete -f crds --ignore-not-found --wait=false >/dev/null" EXIT
  [ -z "$crd" ] || { kube create -f crds; kube wait crd/bakejobs.bakehouse.dev --for=condition=Established --timeout=30s; }
  step "API server: examples"
  kube create namespace bakehouse-packaging
  dry -n bakehouse-packaging -f examples/kubernetes
  step "API server: the admission policy lets in what it should, and nothing else"
  kube label namespace bakehouse-packaging bakes=restricted
  kube create --validate=strict -f deploy/policy/vap.yaml
  # bakejob SPEC: one with these fields of the spec besides.
  bakejob() { printf 'apiVersion: bakehouse.dev/v1alpha1\nkind: BakeJob\nmetadata: {name: a, namespace: bakehouse-packaging}\nspec: {%s}\n' "$1"; }
  local good='source: {uri: "pvc://m/a.onnx"}, data: {validation: {uri: "s3://models/v.npz"}}, output: {uri: "s3://models/out"}, storage: {endpoint: "https://s3.example.com"}'
  local bad=(
    "image=${good}, worker: {image: elsewhere.example.com/worker}"
    "URI=${good/pvc:\/\/m/s3://others}"
    "URI=${good/models\/v/models/../others/v}"
    "endpoint=${good/s3.example.com/s3.other.example.com}"
    "endpoint=${good/, storage*/}"
    "hostPath=${good}, worker: {volumes: [{name: h, hostPath: {path: /}}]}"
  )
  # A policy is enforced a moment after it is created.
  for _ in $(seq 60); do bakejob "${bad[0]#*=}" | dry -f - >/dev/null 2>&1 || break; sleep 0.5; done
  bakejob "$good" | dry -f -
  bakejob "$good, worker: {image: registry.example.com/ml/worker:1, volumes: [{name: e, emptyDir: {}}]}" | dry -f -
  for one in "${bad[@]}"; do
    if refused="$(bakejob "${one#*=}" | dry -f - 2>&1)"; then die "the policy let in: ${one#*=}"; fi
    grep -q "${one%%=*}" <<<"$refused" || die "refused for another reason than ${one%%=*}: $refused"
    echo "refused: ${refused#*denied request: }"
  done
)

tools
case "${1:-check}" in
  check) check ;;
  write) generate . ;;
  cluster) [ -n "${BAKEHOUSE_KUBECONFIG:-}" ] || die "set BAKEHOUSE_KUBECONFIG"; work="$(mktemp -d)"; trap 'rm -rf "$work"' EXIT; dry_run "$work" ;;
  *) die "usage: scripts/packaging.sh [check|write|cluster]" ;;
esac
