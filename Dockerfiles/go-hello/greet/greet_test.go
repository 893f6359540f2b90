package greet

import "testing"

func TestFor(t *testing.T) {
	for want, names := range map[string][]string{
		"Hello, world!":         nil,
		"Hello, Ada!":           {"Ada"},
		"Hello, Ada, Bo and C!": {"Ada", "Bo", "C"},
	} {
		if got := For(names); got != want {
			t.Errorf("For(%q) = %q, want %q", names, got, want)
		}
	}
}
