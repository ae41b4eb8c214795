/** What the manifests say agrees with the server they are for. They were not run on a real cluster. */
import { spawnSync } from 'node:child_process'
import { globSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, normalize } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { parse, parseAllDocuments } from 'yaml'
import { parseNodeConfig } from '../../haproxy-compat/node-config.ts'
import { requireProgram } from '../../haproxy-compat/programs.ts'
import { parseConfig } from '../../mcp/config.ts'
import { LIMITS, settingOf } from '../../mcp/limits.ts'
import { createLocalApp } from '../support/local-app.ts'
import { BASE } from '../support/mcp.ts'

const DOORS = [
  'kubernetes/haproxy',
  'kubernetes/ingress-haproxy',
  'kubernetes/ingress-nginx',
  'alb',
]
const SECRET = 'front-doors/kubernetes/instances/secret.example.yaml'
const DAY = '86400'
const { ttlMs, keepAliveMs, limits } = parseConfig({})

interface Manifest {
  readonly apiVersion: string
  readonly kind: string
  readonly metadata: { name: string; annotations?: Record<string, string> }
  readonly spec: Spec
}

interface Spec {
  readonly selector: { matchLabels: Labels } & Labels
  readonly podSelector: { matchLabels: Labels }
  readonly serviceName: string
  readonly replicas: number
  readonly ordinals: { start: number }
  readonly ports: readonly Port[]
  readonly sessionAffinityConfig: { clientIP: { timeoutSeconds: number } }
  readonly template: { metadata: { labels: Labels }; spec: Pod }
}

type Labels = Record<string, string>

interface Port {
  readonly name: string
  readonly containerPort: number
  readonly targetPort: string
}

interface Pod {
  readonly automountServiceAccountToken: boolean
  readonly terminationGracePeriodSeconds: number
  readonly securityContext: object
  readonly containers: readonly Container[]
  readonly volumes: readonly { name: string }[]
}

interface Container {
  readonly name: string
  readonly image: string
  readonly ports: readonly Port[]
  readonly env: readonly { name: string; value: string }[]
  readonly securityContext: object
  readonly resources: { requests: object; limits: object }
  readonly volumeMounts: readonly { name: string }[]
  readonly startupProbe?: Probe
  readonly livenessProbe: Probe
  readonly readinessProbe: Probe
}

interface Probe {
  readonly httpGet: { path: string; port: string }
}

interface Kustomization {
  readonly namespace: string
  readonly resources: readonly string[]
  readonly images?: readonly { name: string; newName: string; newTag: string }[]
  readonly configMapGenerator?: readonly { name: string; literals?: readonly string[] }[]
  readonly patches?: readonly { patch: string }[]
}

describe('each manifest', () => {
  const files = globSync('front-doors/**/*.yaml').toSorted()

  it('has a kind, a version and a name, and is taken up by a door', () => {
    const all = files.flatMap(documentsOf)
    expect(all.length).toBeGreaterThan(15)
    for (const { apiVersion, kind, metadata } of all) {
      expect([apiVersion, kind, metadata.name]).toEqual(Array(3).fill(expect.stringMatching(/\w/)))
    }
    const taken = new Set(DOORS.flatMap((door) => resourcesOf(`front-doors/${door}`)))
    const own = files.filter((file) => !file.endsWith('kustomization.yaml') && file !== SECRET)
    expect(own.filter((file) => !taken.has(file))).toEqual([])
  })

  it('leaves secrets to be filled in', () => {
    const secrets = files.filter((file) => documentsOf(file).some(({ kind }) => kind === 'Secret'))
    expect(secrets).toEqual([SECRET])
    const { stringData } = parse(read(SECRET)) as { stringData: Record<string, string> }
    expect(new Set(Object.values(stringData))).toEqual(new Set(['']))
    expect(unknown(Object.keys(stringData))).toEqual([])
  })
})

describe.each(DOORS)('%s', (door) => {
  const folder = `front-doors/${door}`
  const manifests = resourcesOf(folder).flatMap(documentsOf)
  const settings = settingsOf(folder)
  const workloads = manifests.filter(({ spec }) => spec?.template !== undefined)
  const instances = one(manifests, 'StatefulSet').spec

  it('sets what there is to set, and the door sets the headers that it is believed', () => {
    expect(unknown(Object.keys(settings))).toEqual([])
    expect(parseNodeConfig(settings)).toMatchObject({ host: '0.0.0.0', port: 8000 })
    const { allowed } = parseConfig(settings)
    expect(allowed.hosts).toEqual([new URL(settings['PUBLIC_URL'] ?? '').hostname])
    const said = [...resourcesOf(folder), 'haproxy-compat/haproxy.cfg'].map(read).join('\n')
    const key = settings['ROUTER_KEY_HEADER']
    if (key !== undefined) expect(said).toContain(`http-request set-header ${key} %[`)
  })

  it('lets an instance drain, and its calls end', () => {
    const { drainMs, stopMs } = parseNodeConfig(settings)
    const { terminationGracePeriodSeconds } = instances.template.spec
    const patched = /terminationGracePeriodSeconds, value: (\d+)/.exec(
      read(`${folder}/kustomization.yaml`),
    )
    const graceMs = 1000 * Number(patched?.[1] ?? terminationGracePeriodSeconds)
    expect(graceMs).toBeGreaterThanOrEqual(drainMs + stopMs + 5000)
  })

  it.each(workloads.map(({ kind, spec }) => [kind, spec] as const))(
    'runs its %s without rights, and within bounds',
    (_, { template: { spec: pod } }) => {
      expect(pod.automountServiceAccountToken).toBe(false)
      expect(pod.securityContext).toMatchObject({
        runAsNonRoot: true,
        runAsUser: expect.any(Number),
        seccompProfile: { type: 'RuntimeDefault' },
      })
      for (const { securityContext, resources, volumeMounts } of pod.containers) {
        expect(securityContext).toEqual({
          allowPrivilegeEscalation: false,
          readOnlyRootFilesystem: true,
          capabilities: { drop: ['ALL'] },
        })
        expect(resources).toMatchObject({
          requests: { cpu: expect.any(String), memory: expect.any(String) },
          limits: { memory: expect.any(String) },
        })
        const volumes = pod.volumes.map(({ name }) => name)
        expect(volumeMounts.map(({ name }) => name).toSorted()).toEqual(volumes.toSorted())
      }
    },
  )

  it('names images by their version, and finds each by its labels', () => {
    const { version } = JSON.parse(read('package.json')) as { version: string }
    const { services } = parse(read('haproxy-compat/compose.yaml'), { merge: true }) as {
      services: { haproxy: { image: string } }
    }
    const { images = [] } = kustomization('front-doors/kubernetes/instances')
    const used = workloads.flatMap(({ spec }) => spec.template.spec.containers)
    const known = new Set([...images.map(({ name }) => name), services.haproxy.image])
    expect(images.map(({ newTag }) => newTag)).toEqual([version])
    expect(used.map(({ image }) => image).filter((image) => !known.has(image))).toEqual([])

    const labels = workloads.map(({ spec }) => JSON.stringify(spec.template.metadata.labels))
    const selectors = manifests.flatMap(({ kind, spec }) => {
      if (kind === 'Service') return JSON.stringify(spec.selector)
      const selector = spec?.selector ?? spec?.podSelector
      return selector === undefined ? [] : JSON.stringify(selector.matchLabels)
    })
    expect(selectors.filter((selector) => !labels.includes(selector))).toEqual([])
    expect(new Set(selectors)).toEqual(new Set(labels))
  })

  it('asks for what the server answers, where it listens', async () => {
    const [instance] = instances.template.spec.containers
    expect(instance?.ports).toEqual([{ name: 'http', containerPort: Number(settings['PORT']) }])
    const { startupProbe, livenessProbe, readinessProbe } = instance ?? {}
    const probes = [startupProbe, livenessProbe, readinessProbe].map((probe) => probe?.httpGet)
    expect(probes.map((probe) => probe?.path)).toEqual(['/live', '/live', '/ready'])
    const { fetch } = createLocalApp()
    for (const probe of probes) {
      expect(probe?.port).toBe('http')
      expect((await fetch(new Request(`${BASE}${probe?.path}`))).status).toBe(200)
    }
    const ports = workloads.flatMap(({ spec }) => spec.template.spec.containers[0]?.ports ?? [])
    const targets = manifests.flatMap(({ kind, spec }) => (kind === 'Service' ? spec.ports : []))
    const named = new Set(ports.map(({ name }) => name))
    expect(targets.filter(({ targetPort }) => !named.has(targetPort))).toEqual([])
  })
})

describe('the doors agree with the server on', () => {
  const nginx = read('front-doors/nginx/nginx.conf')
  const ingress = annotationsOf('kubernetes/ingress-nginx', 'nginx.ingress.kubernetes.io')
  const haproxy = annotationsOf('kubernetes/ingress-haproxy', 'haproxy.org')
  const alb = annotationsOf('alb', 'alb.ingress.kubernetes.io')
  const target = attributes(alb['target-group-attributes'])
  const balancer = attributes(alb['load-balancer-attributes'])

  it('how long a stream may be silent', () => {
    const seconds = [
      /proxy_read_timeout (\d+)s/.exec(nginx)?.[1],
      ingress['proxy-read-timeout'],
      haproxy['timeout-server']?.replace('s', ''),
      balancer['idle_timeout.timeout_seconds'],
    ].map(Number)
    // Two comments may be lost on the way, or late.
    for (const second of seconds) expect(second * 1000).toBeGreaterThan(3 * keepAliveMs)
  })

  it('how long a session lives unused', () => {
    const expire = `expire ${ttlMs / 60_000}m`
    expect(haproxy['backend-config-snippet']).toContain(expire)
    expect(read('haproxy-compat/haproxy.cfg')).toContain(`100k ${expire}`)
    const services = resourcesOf('front-doors/kubernetes/haproxy').flatMap(documentsOf)
    const holdfast = services.find(
      ({ kind, spec }) => kind === 'Service' && 'sessionAffinity' in spec,
    )
    expect(holdfast?.spec.sessionAffinityConfig.clientIP.timeoutSeconds).toBe(ttlMs / 1000)
  })

  it('how large a request is', () => {
    expect(limits.maxBodyBytes).toBe(1024 * 1024)
    expect(nginx).toMatch(/client_max_body_size 1m;\n.*client_body_buffer_size 1m;/)
    expect([ingress['proxy-body-size'], ingress['client-body-buffer-size']]).toEqual(['1m', '1m'])
  })

  it('how a client is known by its cookie', () => {
    expect(ingress).toMatchObject({
      affinity: 'cookie',
      'session-cookie-name': 'MCP_SESSION',
      'session-cookie-max-age': DAY,
      'session-cookie-path': '/mcp',
      'proxy-buffering': 'off',
    })
    const cookie = `MCP_SESSION=$request_id; Path=/mcp; Max-Age=${DAY};`
    expect(read('front-doors/nginx/by-cookie.conf')).toContain(cookie)
    expect(target).toMatchObject({
      'stickiness.enabled': 'true',
      'stickiness.type': 'lb_cookie',
      'stickiness.lb_cookie.duration_seconds': DAY,
    })
  })

  it('how one finds out that an instance is leaving, and how long that takes', () => {
    expect([haproxy['check-http'], alb['healthcheck-path']]).toEqual(['/ready', '/ready'])
    const { drainMs, stopMs } = parseNodeConfig(settingsOf('front-doors/alb'))
    const noticedSeconds =
      Number(alb['healthcheck-interval-seconds']) * Number(alb['unhealthy-threshold-count'])
    expect(drainMs).toBeGreaterThan(noticedSeconds * 1000)
    expect(Number(target['deregistration_delay.timeout_seconds']) * 1000).toBe(stopMs)
  })

  it("what HAProxy is to do, in its controller's words as in its own", () => {
    requireProgram('haproxy')
    const folder = mkdtempSync(join(tmpdir(), 'holdfast-manifests-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const snippet = haproxy['backend-config-snippet']
    const config = `
      defaults
        mode http
        timeout connect 1s
        timeout client 1s
        timeout server 1s
      frontend http
        bind 127.0.0.1:1
        default_backend mcp
      backend mcp
        balance ${haproxy['load-balance']}
        ${snippet}
        server one 127.0.0.1:2
    `
    writeFileSync(join(folder, 'haproxy.cfg'), `${config}\n`)
    const checked = spawnSync('haproxy', ['-c', '-f', join(folder, 'haproxy.cfg')], {
      encoding: 'utf8',
    })
    expect(checked.stderr).not.toMatch(/WARNING|ALERT/)
    expect(checked.status).toBe(0)
    const own = read('haproxy-compat/haproxy.cfg')
    for (const line of [
      'retries 10',
      'option redispatch 1',
      'retry-on conn-failure empty-response junk-response',
    ]) {
      expect([own, snippet]).toEqual([expect.stringContaining(line), expect.stringContaining(line)])
    }
  })

  it('the names of the instances', () => {
    const manifests = resourcesOf('front-doors/kubernetes/haproxy').flatMap(documentsOf)
    const { metadata, spec } = one(manifests, 'StatefulSet')
    const [haproxyItself] = one(manifests, 'Deployment').spec.template.spec.containers
    const { namespace } = kustomization('front-doors/kubernetes/haproxy')
    const names = Array.from(
      { length: spec.replicas },
      (_, at) => `${metadata.name}-${at + spec.ordinals.start}.${spec.serviceName}.${namespace}`,
    )
    expect(haproxyItself?.env.map(({ value }) => value)).toEqual(
      names.map((name) => `${name}.svc.cluster.local:8000`),
    )
  })
})

/** What a folder's kustomization takes up, in files. */
function resourcesOf(folder: string): string[] {
  return kustomization(folder).resources.flatMap((name) => {
    const path = normalize(join(folder, name))
    if (!statSync(path).isDirectory()) return path
    return path === 'haproxy-compat' ? [] : resourcesOf(path)
  })
}

/** What its instances are told, by itself and by what it is made of. */
function settingsOf(folder: string): Record<string, string> {
  const own = [kustomization('front-doors/kubernetes/instances'), kustomization(folder)]
  const literals = own
    .flatMap(({ configMapGenerator = [] }) => configMapGenerator)
    .flatMap((map) => (map.name === 'settings' ? (map.literals ?? []) : []))
  return Object.fromEntries(literals.map((literal) => literal.split(/=(.*)/, 2)))
}

function kustomization(folder: string): Kustomization {
  return parse(read(`${folder}/kustomization.yaml`)) as Kustomization
}

/** Settings that no parser reads. */
function unknown(names: readonly string[]): string[] {
  const sources = ['mcp/config.ts', 'haproxy-compat/node-config.ts'].map(read).join('\n')
  const parsed = [...sources.matchAll(/^ {4}([A-Z_]+):/gm)].map(([, name]) => name)
  const known = new Set([...parsed, ...Object.keys(LIMITS).map(settingOf)])
  return names.filter((name) => !known.has(name))
}

function annotationsOf(door: string, prefix: string): Record<string, string> {
  const { metadata } = one(documentsOf(`front-doors/${door}/ingress.yaml`), 'Ingress')
  const all = Object.entries(metadata.annotations ?? {})
  expect(all.filter(([name]) => !name.startsWith(`${prefix}/`))).toEqual([])
  return Object.fromEntries(all.map(([name, value]) => [name.slice(prefix.length + 1), value]))
}

function attributes(text = ''): Record<string, string> {
  return Object.fromEntries(text.split(',').map((pair) => pair.split('=')))
}

function one(manifests: readonly Manifest[], kind: string): Manifest {
  const [first, ...more] = manifests.filter((manifest) => manifest.kind === kind)
  if (first === undefined || more.length > 0) throw new Error(`Not one ${kind}`)
  return first
}

function documentsOf(file: string): Manifest[] {
  return parseAllDocuments(read(file), { merge: true, strict: true }).map((document) => {
    expect(document.errors).toEqual([])
    return document.toJS() as Manifest
  })
}

function read(file: string): string {
  return readFileSync(file, 'utf8')
}
