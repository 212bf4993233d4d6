-- Health of a BakeJob for Argo CD. It speaks of kstatus: observedGeneration, Reconciling, Stalled and Ready are read as kstatus reads them;
-- what kstatus cannot say, suspension and an approval that is waited for, comes on top.
-- Argo CD loads no string library, so there is none here.

local hs = {}
local spec = obj.spec or {}
local status = obj.status or {}

local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end

local function holds(kind)
  return conditions[kind] ~= nil and conditions[kind].status == "True"
end

-- The reason in front: it is what the runbook has an entry for.
local function words(kind)
  local condition = conditions[kind] or {}
  local reason = condition.reason or "Unknown"
  if condition.message == nil or condition.message == "" then
    return reason
  end
  return reason .. ": " .. condition.message
end

-- A status of an earlier generation says nothing about this one; before the first visit it is -1.
local current = status.observedGeneration ~= nil
  and (obj.metadata.generation == nil or status.observedGeneration == obj.metadata.generation)
local ended = current and status.completionTime ~= nil

-- A run that has ended keeps its verdict, suspended or not.
if not ended and (spec.suspend == true or (current and holds("Suspended"))) then
  hs.status = "Suspended"
  hs.message = "spec.suspend is true"
  if current and holds("Suspended") and (conditions.Suspended.message or "") ~= "" then
    hs.message = conditions.Suspended.message
  end
  return hs
end

if not current or conditions.Ready == nil then
  hs.status = "Progressing"
  hs.message = "Waiting for the operator to look at it"
  return hs
end

-- A missed gate, one that could not be decided, and every failure end here.
if holds("Stalled") then
  hs.status = "Degraded"
  hs.message = words("Stalled")
  return hs
end

-- The gates passed and a person has yet to approve this very artifact. An approval of another digest is none.
local promotion = spec.promotion or {}
local artifact = (status.artifacts or {})[1] or {}
if ended and holds("GatePassed") and promotion.policy == "Manual" and not holds("Promoted")
  and (promotion.approvedDigest == nil or promotion.approvedDigest ~= artifact.sha256) then
  hs.status = "Suspended"
  hs.message = "The gates passed; to promote, set spec.promotion.approvedDigest to " .. (artifact.sha256 or "the artifact's digest")
  return hs
end

if holds("Reconciling") then
  hs.status = "Progressing"
  hs.message = words("Reconciling")
  return hs
end

-- Ready, but what was asked for includes the promotion.
if promotion.policy ~= nil and promotion.policy ~= "Never" and not holds("Promoted") then
  hs.status = "Progressing"
  hs.message = words("Promoted")
  return hs
end

if holds("Ready") then
  hs.status = "Healthy"
  hs.message = words("Ready")
  return hs
end

hs.status = "Progressing"
hs.message = words("Ready")
return hs
