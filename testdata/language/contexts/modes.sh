for m in 0644 0755 1777 4755 2711 0600 6000; do echo x >f$m; chmod $m f$m; mkdir d$m; chmod $m d$m; done
