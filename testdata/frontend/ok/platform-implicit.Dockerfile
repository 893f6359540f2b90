FROM arm-only
RUN x
