package health

import (
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

// What waits by kstatus (Flux, kpt, Helm 4) comes to the same verdicts as Argo CD. It knows no suspension: it waits on.
func TestKstatus(t *testing.T) {
	verdicts := map[string]status.Status{
		"Healthy":     status.CurrentStatus,
		"Degraded":    status.FailedStatus,
		"Progressing": status.InProgressStatus,
		"Suspended":   status.InProgressStatus,
	}
	for _, test := range everyTest(t) {
		switch {
		case filepath.Base(filepath.Dir(test.InputPath)) == "promotion":
			// An approval that is waited for is no matter of kstatus: the bake is ready.
			continue
		case filepath.Base(test.InputPath) == "new-without-status.yaml":
			// kstatus takes any object without a status for ready. With the CRD there is none: its default is observedGeneration -1.
			continue
		}
		t.Run(test.InputPath, func(t *testing.T) {
			// Its whole numbers have to be such: they are read by the types of Kubernetes.
			var object unstructured.Unstructured
			read(t, test.InputPath, &object)
			result, err := status.Compute(&object)
			if err != nil {
				t.Fatal(err)
			}
			if want := verdicts[test.HealthStatus.Status]; result.Status != want {
				t.Errorf("%s (%s), want %s", result.Status, result.Message, want)
			}
		})
	}
}
