FROM busybox
ENV A=${B:#x}
ENV A=${}
ENV A=${B
ENV A=${B/x}
ENV A="x
ENV A=${B#\x}
