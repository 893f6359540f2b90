// Package greet makes greetings.
package greet

import "strings"

// For greets everyone named, or the world.
func For(names []string) string {
	switch len(names) {
	case 0:
		return "Hello, world!"
	case 1:
		return "Hello, " + names[0] + "!"
	default:
		last := len(names) - 1
		return "Hello, " + strings.Join(names[:last], ", ") + " and " + names[last] + "!"
	}
}
