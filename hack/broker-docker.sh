# shellcheck shell=bash disable=SC2154 # NAME, PURGE and the functions come from broker.sh
# broker-docker.sh: the commands of broker.sh on a Docker engine. Sourced by it. Not tried by us, for want of such an engine.

container() { echo "partymq-broker-$NAME"; }
docker_alive() { [ "$(docker inspect -f '{{.State.Running}}' "$(container)" 2>/dev/null)" = true ]; }

docker_up() {
  claim_port
  if docker_alive; then return; fi
  say "starting RabbitMQ ($NAME) in a container on 127.0.0.1:$(port) (10 s, and the download the first time)"
  if ! docker start "$(container)" >/dev/null 2>&1; then
    echo '[rabbitmq_management,rabbitmq_shovel].' >"$(folder "$NAME")/enabled"
    # the hostname is part of the node's name, and so of its data's
    docker run --detach --name "$(container)" --hostname "$(container)" \
      --publish "127.0.0.1:$(port):5672" --publish "127.0.0.1:$(($(port) + 10000)):15672" \
      --volume "$(container):/var/lib/rabbitmq" --volume "$(folder "$NAME")/enabled:/etc/rabbitmq/enabled_plugins:ro" \
      "rabbitmq:$(version_of "$NAME")-management" >/dev/null
  fi
  wait_for 60 docker exec "$(container)" rabbitmqctl -q await_startup --timeout 60
}

docker_down() {
  if docker_alive; then docker stop --time 30 "$(container)" >/dev/null; fi
  [ -n "$PURGE" ] || return 0
  docker rm --force --volumes "$(container)" >/dev/null 2>&1 || true
  docker volume rm "$(container)" >/dev/null 2>&1 || true
  rm -rf "$(folder "$NAME")"
}

docker_kill() { if docker_alive; then docker kill --signal KILL "$(container)" >/dev/null; fi; }
docker_signal() { if [ "$1" = freeze ]; then docker pause "$(container)"; else docker unpause "$(container)"; fi >/dev/null; }
docker_cut() { lack "broker.sh cut works on brokers that are no containers."; }
docker_mend() { :; }
docker_frozen() { [ "$(docker inspect -f '{{.State.Paused}}' "$(container)" 2>/dev/null)" = true ]; }
docker_ctl() { docker exec "$(container)" rabbitmqctl "$@"; }
docker_status() { docker_alive; }

docker_pod_url() { # pods of a kind cluster are on Docker's network of that name
  docker network connect kind "$(container)" 2>/dev/null || true
  echo "amqp://guest:guest@$(docker inspect -f '{{.NetworkSettings.Networks.kind.IPAddress}}' "$(container)"):5672/"
}
