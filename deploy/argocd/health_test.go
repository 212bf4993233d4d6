// Runs health.lua as Argo CD does: with gopher-lua, and with no libraries but package, base and table.
package health

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	lua "github.com/yuin/gopher-lua"
	"sigs.k8s.io/yaml"
)

type healthStatus struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

type test struct {
	HealthStatus healthStatus `json:"healthStatus"`
	InputPath    string       `json:"inputPath"`
}

type tests struct {
	Tests []test `json:"tests"`
}

// toLua makes tables of what JSON decodes to.
func toLua(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case bool:
		return lua.LBool(value)
	case float64:
		return lua.LNumber(value)
	case string:
		return lua.LString(value)
	case []any:
		table := state.NewTable()
		for _, item := range value {
			table.Append(toLua(state, item))
		}
		return table
	case map[string]any:
		table := state.NewTable()
		for key, item := range value {
			table.RawSetString(key, toLua(state, item))
		}
		return table
	}
	return lua.LNil
}

func health(t *testing.T, script string, object map[string]any) healthStatus {
	t.Helper()
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for _, library := range []struct {
		name string
		open lua.LGFunction
	}{{lua.LoadLibName, lua.OpenPackage}, {lua.BaseLibName, lua.OpenBase}, {lua.TabLibName, lua.OpenTable}} {
		state.Push(state.NewFunction(library.open))
		state.Push(lua.LString(library.name))
		state.Call(1, 0)
	}
	state.SetGlobal("obj", toLua(state, object))
	if err := state.DoString(script); err != nil {
		t.Fatal(err)
	}
	table, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		t.Fatalf("the script returns %s, not a table", state.Get(-1).Type())
	}
	return healthStatus{Status: lua.LVAsString(table.RawGetString("status")), Message: lua.LVAsString(table.RawGetString("message"))}
}

func read(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// Those of decisions played by a test, and those of a cluster, with what Argo CD itself showed.
func everyTest(t *testing.T) []test {
	t.Helper()
	var every []test
	for _, index := range []string{"health_test.yaml", "testdata/cluster/tests.yaml"} {
		var some tests
		read(t, index, &some)
		if len(some.Tests) == 0 {
			t.Fatalf("%s has no tests", index)
		}
		every = append(every, some.Tests...)
	}
	return every
}

func TestHealth(t *testing.T) {
	script, err := os.ReadFile("health.lua")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, test := range everyTest(t) {
		used[test.InputPath] = true
		t.Run(test.InputPath, func(t *testing.T) {
			var object map[string]any
			read(t, test.InputPath, &object)
			if got := health(t, string(script), object); got != test.HealthStatus {
				t.Errorf("got  %+v\nwant %+v", got, test.HealthStatus)
			}
		})
	}
	for _, pattern := range []string{"testdata/*.yaml", "testdata/*/*.yaml"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			if !used[file] && filepath.Base(file) != "tests.yaml" {
				t.Errorf("%s is in no test", file)
			}
		}
	}
}

// Whatever an object looks like, a script that breaks would hide its health; it must answer with one of Argo CD's words.
func TestOddObjects(t *testing.T) {
	script, err := os.ReadFile("health.lua")
	if err != nil {
		t.Fatal(err)
	}
	words := map[string]bool{"Healthy": true, "Progressing": true, "Degraded": true, "Suspended": true}
	for _, text := range []string{
		`{"metadata":{}}`,
		`{"metadata":{},"spec":{},"status":{}}`,
		`{"metadata":{"generation":1},"status":{"observedGeneration":1}}`,
		`{"metadata":{"generation":1},"status":{"observedGeneration":1,"conditions":[{"type":"Ready","status":"Unknown"}]}}`,
		`{"metadata":{"generation":1},"spec":{"suspend":true},"status":{"observedGeneration":1,"conditions":[{"type":"Suspended","status":"True","message":""}]}}`,
		`{"metadata":{"generation":1},"spec":{"promotion":{"policy":"Manual"}},"status":{"observedGeneration":1,"completionTime":"t","conditions":[{"type":"Ready","status":"True"},{"type":"GatePassed","status":"True"}]}}`,
	} {
		var object map[string]any
		if err := json.Unmarshal([]byte(text), &object); err != nil {
			t.Fatal(err)
		}
		if got := health(t, string(script), object); !words[got.Status] || got.Message == "" {
			t.Errorf("%s gives %+v", text, got)
		}
	}
}
