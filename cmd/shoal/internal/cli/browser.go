package cli

import (
	"context"
	"os"
	"os/exec"
	"runtime"
)

// openBrowser shows a page where there is a screen to show it on, and does
// nothing elsewhere: the URL has been printed already.
func openBrowser(ctx context.Context, page string) {
	command := browserCommand(runtime.GOOS, os.Getenv, page)
	if command == nil {
		return
	}
	path, err := exec.LookPath(command[0])
	if err != nil {
		return
	}
	// The opener hands the page to a browser and ends; its own failure is no
	// failure of the command.
	_ = exec.CommandContext(ctx, path, command[1:]...).Run()
}

// browserCommand is the command that opens a page on this system, or nil where
// there is no screen.
func browserCommand(system string, env func(string) string, page string) []string {
	switch {
	case system == "darwin":
		return []string{"open", page}
	case system == "windows":
		return []string{"rundll32", "url.dll,FileProtocolHandler", page}
	case env("DISPLAY") != "" || env("WAYLAND_DISPLAY") != "":
		return []string{"xdg-open", page}
	}
	return nil
}
